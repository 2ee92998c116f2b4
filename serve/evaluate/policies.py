"""How well policies find what clips are labelled with, and which thresholds would do it best, for `kinodex eval`.

Clips are videos of the library, each labelled from end to end: what a label is not said of is not there. An event is
right if it overlaps a span of its label, and a span is found if an event of its label overlaps it. A span of a parent
label asks for nothing of any one policy below it: those are judged together, and each is not wrong there.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.catalog.final_utterances import FinalUtterances
from serve.errors import ClipsInvalid
from serve.evaluate.questions import names_of
from serve.moderation.policies import Policies, Policy
from serve.moderation.video import Rulebook, VideoScorer
from serve.search.library import Library
from serve.values import Video
from temporal.hysteresis import Hysteresis, Rules
from temporal.values import ChangeKind, TimeSpan

ENTERS = tuple(round(0.05 * n, 2) for n in range(2, 20))  # thresholds that are tried
LEAVES = (0.5, 0.75, 1.0)  # and for each, these shares of it
KEYS = {"file", "label", "start_seconds", "end_seconds"}
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSpan:
    """A part of a clip, and what is there."""

    file: str
    label: str  # of a policy: its id, its label, or one of its parents; empty: the clip has nothing
    span: TimeSpan


def read_clips(path: Path) -> list[LabelledSpan]:
    """Read labelled clips: JSON lines of file, label, start_seconds and end_seconds.

    Without seconds the whole clip is meant, without a label there is nothing in it.

    Raises:
        ClipsInvalid: For the first line that is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ClipsInvalid(str(path), str(error)) from error
    found = [_clip(str(path), number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ClipsInvalid(str(path), "there is no clip in it")
    return found


def _clip(path: str, number: int, line: str) -> LabelledSpan:
    def wrong(reason: str) -> ClipsInvalid:
        return ClipsInvalid(path, f"line {number}: {reason}")

    try:
        values = json.loads(line)
    except ValueError as error:
        raise wrong(f"not JSON: {error}") from error
    if not isinstance(values, dict) or not values.keys() <= KEYS:
        raise wrong(f"must be an object of {', '.join(sorted(KEYS))}")
    file, label = values.get("file"), values.get("label", "")
    if not isinstance(file, str) or not file or not isinstance(label, str):
        raise wrong("file and label must be texts")
    start, end = values.get("start_seconds", 0.0), values.get("end_seconds", math.inf)
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in (start, end)):
        raise wrong("start_seconds and end_seconds must be numbers")
    if not 0 <= start < end:
        raise wrong(f"a span must be 0 <= start_seconds < end_seconds, got {start:g} to {end:g}")
    return LabelledSpan(file=file, label=label, span=TimeSpan(start_seconds=float(start), end_seconds=float(end)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of labelled spans and of events."""

    span_count: int
    found_count: int  # spans that an event overlaps
    event_count: int
    right_count: int  # events that overlap a span

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            span_count=self.span_count + other.span_count,
            found_count=self.found_count + other.found_count,
            event_count=self.event_count + other.event_count,
            right_count=self.right_count + other.right_count,
        )

    @property
    def precision(self) -> float | None:
        """Share of right events, 0..1; None: there was none."""
        return self.right_count / self.event_count if self.event_count else None

    @property
    def recall(self) -> float | None:
        """Share of spans found, 0..1; None: there was none."""
        return self.found_count / self.span_count if self.span_count else None

    @property
    def f1(self) -> float:
        precision, recall = self.precision or 0.0, self.recall or 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


NOTHING = Counts(span_count=0, found_count=0, event_count=0, right_count=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdTrial:
    """Two thresholds, and what they would have found."""

    enter: float
    leave: float
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """One policy on all clips."""

    policy: Policy
    counts: Counts  # with its own thresholds
    tried: tuple[ThresholdTrial, ...]  # with others; none: it looks at nothing

    @property
    def suggested(self) -> ThresholdTrial | None:
        """The best thresholds on these clips by F1, of equals those in the middle; None: its own are as good."""
        greatest = max((one.counts.f1 for one in self.tried), default=0.0)
        if greatest <= self.counts.f1:
            return None
        best = sorted((one for one in self.tried if one.counts.f1 == greatest), key=lambda one: (one.enter, one.leave))
        return best[len(best) // 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentResult:
    """All policies below a parent label that a clip is labelled with."""

    label: str
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvaluation:
    """What policies are worth on some clips."""

    policies: list[PolicyResult]
    parents: list[ParentResult]  # in the order in which clips name them


def evaluate_policies(
    library: Library,
    policies: Policies,
    clips: Sequence[LabelledSpan],
    source: str,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> PolicyEvaluation:
    """Score the clips by every policy, whatever collection it is for.

    Args:
        source: Where the clips are from, for errors.
        on_done: Told how many clips are done, and how many there are.
    Raises:
        ClipsInvalid: If a clip is not in the library, or a label is no policy's.
    """
    known = {name for one in policies.policies for name in {*own_labels(one), *one.parents}}
    for clip in clips:
        if clip.label and clip.label not in known:
            raise ClipsInvalid(source, f"{clip.label} is no policy's id, label or parent")
    everywhere = Policies(version=policies.version, policies=tuple(_everywhere(one) for one in policies.policies))
    engine = library.engine
    engine.refresh()
    book = Rulebook(everywhere, "", engine.visual, engine.fingerprint)
    videos = {name: video for video in library.videos() for name in names_of(video)}
    files = list(dict.fromkeys(clip.file for clip in clips))
    above = {name for one in policies.policies for name in one.parents}
    totals = [NOTHING for _ in policies.policies]
    together = {clip.label: NOTHING for clip in clips if clip.label in above}
    tried: list[dict[tuple[float, float], Counts]] = [{} for _ in policies.policies]
    for done, file in enumerate(files):
        on_done(done, len(files))
        if file not in videos:
            raise ClipsInvalid(source, f"{file} is not in the library")
        video = videos[file]
        curves, times, heard, seen = _score_video(library, book, video)
        for n, policy in enumerate(policies.policies):
            spans = _labelled_spans(clips, file, own_labels(policy))
            maybe = _labelled_spans(clips, file, set(policy.parents) - own_labels(policy))
            totals[n] += count_matches(spans, [*heard[n], *seen[n]], maybe)
            if curves is not None and policy.shows:
                for thresholds, events in _try_thresholds(policy, curves[:, n], times, video).items():
                    so_far = tried[n].get(thresholds, NOTHING)
                    tried[n][thresholds] = so_far + count_matches(spans, [*heard[n], *events], maybe)
        for label, so_far in together.items():
            below = [n for n, one in enumerate(policies.policies) if label in {*own_labels(one), *one.parents}]
            names = {name for n in below for name in _labels_from(label, policies.policies[n])}
            events = [event for n in below for event in (*heard[n], *seen[n])]
            together[label] = so_far + count_matches(_labelled_spans(clips, file, names), events)
    on_done(len(files), len(files))
    judged = [
        PolicyResult(
            policy=policy,
            counts=totals[n],
            tried=tuple(
                ThresholdTrial(enter=enter, leave=leave, counts=one) for (enter, leave), one in tried[n].items()
            ),
        )
        for n, policy in enumerate(policies.policies)
    ]
    return PolicyEvaluation(
        policies=judged, parents=[ParentResult(label=name, counts=one) for name, one in together.items()]
    )


def own_labels(policy: Policy) -> set[str]:
    """Return what a clip may call what a policy looks for, and no other that shares a parent with it."""
    return {policy.policy_id, policy.label}


def _labels_from(label: str, policy: Policy) -> set[str]:
    """Return a label of a policy, and those of it that are narrower."""
    parents = policy.parents
    return {*own_labels(policy), *(parents[parents.index(label) :] if label in parents else ())}


def _labelled_spans(clips: Sequence[LabelledSpan], file: str, labels: set[str]) -> list[TimeSpan]:
    return [clip.span for clip in clips if clip.file == file and clip.label in labels]


def _everywhere(policy: Policy) -> Policy:
    return replace(policy, collections=())


def count_matches(spans: Sequence[TimeSpan], events: Sequence[TimeSpan], maybe: Sequence[TimeSpan] = ()) -> Counts:
    """Compare events with the spans of their label in one clip.

    Args:
        maybe: Where an event may be right, as a parent label is there: one that is nowhere else does not count.
    """

    def meet(one: TimeSpan, other: TimeSpan) -> bool:
        return one.start_seconds < other.end_seconds and other.start_seconds < one.end_seconds

    events = [
        event
        for event in events
        if any(meet(span, event) for span in spans) or not any(meet(span, event) for span in maybe)
    ]
    return Counts(
        span_count=len(spans),
        found_count=sum(any(meet(span, event) for event in events) for span in spans),
        event_count=len(events),
        right_count=sum(any(meet(span, event) for span in spans) for event in events),
    )


def _score_video(
    library: Library, book: Rulebook, video: Video
) -> tuple[Floats | None, Floats, list[list[TimeSpan]], list[list[TimeSpan]]]:
    """Return a video's confidences (F, N) and their times, and by policy what was heard and what was seen."""
    engine, scorer = library.engine, VideoScorer(book)
    heard: list[list[TimeSpan]] = [[] for _ in book.policies]
    seen: list[list[TimeSpan]] = [[] for _ in book.policies]
    curves, times, found = None, np.empty(0), []
    with engine.snapshot():
        utterances = FinalUtterances(engine.catalog).after(video, -1)
        if engine.visual is not None and book.frame_scorer is not None:
            frames = engine.visual.frames.get(video.row, video.version)
            times = frames.pts_seconds
            curves = book.frame_scorer.confidences(frames.vectors.take(np.arange(len(frames))))
            found += list(scorer.add_frames(frames))
    found += [*scorer.add_utterances(utterances, video.duration_seconds), *scorer.finish(video.duration_seconds)]
    for one in found:
        if one.kind is ChangeKind.CLOSED:
            span = TimeSpan(start_seconds=one.start_seconds, end_seconds=one.end_seconds)
            (seen if one.channel == "visual" else heard)[one.policy].append(span)
    return curves, times, heard, seen


def _try_thresholds(
    policy: Policy, curve: Floats, times: Floats, video: Video
) -> dict[tuple[float, float], list[TimeSpan]]:
    """Return what a policy would have seen with other thresholds, all followed side by side."""
    grid = [(enter, round(share * enter, 3)) for enter in ENTERS for share in LEAVES]
    tracks = Hysteresis(
        Rules(
            enter=np.array([enter for enter, _ in grid]),
            leave=np.array([leave for _, leave in grid]),
            min_seconds=np.full(len(grid), policy.min_seconds),
            cooldown_seconds=np.full(len(grid), policy.cooldown_seconds),
        )
    )
    changes = []
    for seconds, confidence in zip(times.tolist(), curve, strict=True):
        changes += tracks.step(seconds, np.full(len(grid), confidence))
    changes += tracks.finish(max(video.duration_seconds, float(times[-1]) if len(times) else 0.0))
    found: dict[tuple[float, float], list[TimeSpan]] = {one: [] for one in grid}
    for one in changes:
        if one.kind is ChangeKind.CLOSED:
            span = TimeSpan(start_seconds=one.start_seconds, end_seconds=one.end_seconds)
            found[grid[one.track]].append(span)
    return found


def policy_figures(found: PolicyEvaluation) -> list[dict[str, Any]]:
    """Return what `--json` prints of the policies, then of the parent labels, which have no thresholds."""
    return [
        *(_policy_json(one) for one in found.policies),
        *(
            {"policy_id": None, "label": one.label, **_counts_json(None, None, one.counts), "suggested": None}
            for one in found.parents
        ),
    ]


def _policy_json(one: PolicyResult) -> dict[str, Any]:
    return {
        "policy_id": one.policy.policy_id,
        "label": one.policy.label,
        **_counts_json(one.policy.enter, one.policy.leave, one.counts),
        "suggested": None
        if one.suggested is None
        else _counts_json(one.suggested.enter, one.suggested.leave, one.suggested.counts),
    }


def _counts_json(enter: float | None, leave: float | None, counts: Counts) -> Mapping[str, Any]:
    return {
        "enter": enter,
        "leave": leave,
        "spans": counts.span_count,
        "events": counts.event_count,
        "precision": counts.precision,
        "recall": counts.recall,
        "F1": counts.f1,
    }
