"""Measures moderation policies on labelled videos, and suggests thresholds, for `kinodex eval --policies`.

Clips are videos of the library. Their labels are complete: a label holds in its spans and nowhere else. An event is
right if it overlaps a span of its label, and a span is found if an event of its label overlaps it. A span of a parent
label demands an event of some policy below the parent, not of each: the policies below a parent are measured together,
and an event of a single policy in such a span is ignored.
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
from serve.moderation.video_scorer import Rulebook, VideoScorer
from serve.search.library import Library
from serve.values import Video
from temporal.hysteresis import Hysteresis, Rules
from temporal.values import ChangeKind, TimeSpan

ENTERS = tuple(round(0.05 * n, 2) for n in range(2, 20))  # thresholds tried for `enter`: 0.1 to 0.95
LEAVE_SHARES = (0.5, 0.75, 1.0)  # thresholds tried for `leave`, as shares of `enter`
CHANNELS = ("visual", "speech", "text")  # of events
KEYS = {"file", "label", "start_seconds", "end_seconds"}
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSpan:
    """A labelled part of a video."""

    file: str
    label: str  # a policy's id, its label, or one of its parents; empty: the video shows nothing a policy looks for
    span: TimeSpan


def read_clips(path: Path) -> list[LabelledSpan]:
    """Read labelled videos: JSON lines of file, label, start_seconds and end_seconds.

    Without seconds a label holds for the whole video. Without a label the video shows nothing a policy looks for.

    Raises:
        ClipsInvalid: For a file that cannot be read or is empty, and for the first invalid line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ClipsInvalid(str(path), str(error)) from error
    clips = [_parse_clip(str(path), number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not clips:
        raise ClipsInvalid(str(path), "the file holds no clip")
    return clips


def _parse_clip(path: str, number: int, line: str) -> LabelledSpan:
    def invalid(reason: str) -> ClipsInvalid:
        return ClipsInvalid(path, f"line {number}: {reason}")

    try:
        values = json.loads(line)
    except ValueError as error:
        raise invalid(f"not JSON: {error}") from error
    if not isinstance(values, dict) or not values.keys() <= KEYS:
        raise invalid(f"must be an object of {', '.join(sorted(KEYS))}")
    file, label = values.get("file"), values.get("label", "")
    if not isinstance(file, str) or not file or not isinstance(label, str):
        raise invalid("file and label must be texts")
    start, end = values.get("start_seconds", 0.0), values.get("end_seconds", math.inf)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (start, end)):
        raise invalid("start_seconds and end_seconds must be numbers")
    if not 0 <= start < end:
        raise invalid(f"a span must be 0 <= start_seconds < end_seconds, got {start:g} to {end:g}")
    return LabelledSpan(file=file, label=label, span=TimeSpan(start_seconds=float(start), end_seconds=float(end)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of labelled spans and of events, and of their matches."""

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
        """Share of the events that are right, 0..1; None without events."""
        return self.right_count / self.event_count if self.event_count else None

    @property
    def recall(self) -> float | None:
        """Share of the spans that are found, 0..1; None without spans."""
        return self.found_count / self.span_count if self.span_count else None

    @property
    def f1(self) -> float:
        precision, recall = self.precision or 0.0, self.recall or 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


NO_COUNTS = Counts(span_count=0, found_count=0, event_count=0, right_count=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdTrial:
    """A pair of thresholds, and the counts that a policy would have with it."""

    enter: float
    leave: float
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """One policy measured on all clips."""

    policy: Policy
    counts: Counts  # with the thresholds of the policy
    trials: tuple[ThresholdTrial, ...]  # with other thresholds; empty for a policy without a visual part

    @property
    def suggested(self) -> ThresholdTrial | None:
        """The thresholds with the highest F1 on these clips; None if those of the policy reach it too.

        Among equals it is the middle pair, in order of enter and leave.
        """
        highest = max((trial.counts.f1 for trial in self.trials), default=0.0)
        if highest <= self.counts.f1:
            return None
        best = [trial for trial in self.trials if trial.counts.f1 == highest]
        return sorted(best, key=lambda trial: (trial.enter, trial.leave))[len(best) // 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentResult:
    """All policies below one parent label, measured together."""

    label: str
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvaluation:
    """The results of all policies on some clips."""

    policies: list[PolicyResult]
    parents: list[ParentResult]  # of the parent labels that clips have, in the order of the clips


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoEvents:
    """The events of all P policies in one video of F frames."""

    video: Video
    confidences: Floats | None  # (F, P), of the frames; None: there is no frame, or no visual encoder
    pts_seconds: Floats  # (F,)
    visual: list[list[TimeSpan]]  # by policy
    speech: list[list[TimeSpan]]  # by policy
    text: list[list[TimeSpan]]  # by policy

    def of(self, policy: int) -> list[TimeSpan]:
        return [*self.speech[policy], *self.text[policy], *self.visual[policy]]


def evaluate_policies(
    library: Library,
    policies: Policies,
    clips: Sequence[LabelledSpan],
    source: str,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> PolicyEvaluation:
    """Score the clips by every policy, including policies that are meant for other collections.

    Pictures are scored even where they are off (serve.moderation.visual_rules): whether they may be on is the question.

    Args:
        source: Path of the file of clips, for errors.
        on_done: Called with the count of videos scored so far, and the count of all.
    Raises:
        ClipsInvalid: If a clip is not in the library, or its label belongs to no policy.
    """
    everywhere = tuple(
        replace(policy, collections=(), visual="on" if policy.shows else "auto") for policy in policies.policies
    )
    labels = {label for policy in everywhere for label in {*own_labels(policy), *policy.parents}}
    for clip in clips:
        if clip.label and clip.label not in labels:
            raise ClipsInvalid(source, f"{clip.label} is not the id, label or parent of a policy")
    engine = library.engine
    engine.refresh()
    book = Rulebook(replace(policies, policies=everywhere), "", engine.visual, engine.fingerprint)
    videos = {name: video for video in library.videos() for name in names_of(video)}
    parents = {parent for policy in everywhere for parent in policy.parents}
    counts = [NO_COUNTS for _ in everywhere]
    parent_counts = {clip.label: NO_COUNTS for clip in clips if clip.label in parents}
    trials: list[dict[tuple[float, float], Counts]] = [{} for _ in everywhere]
    files = list(dict.fromkeys(clip.file for clip in clips))
    for done, file in enumerate(files):
        on_done(done, len(files))
        if file not in videos:
            raise ClipsInvalid(source, f"{file} is not in the library")
        events = find_policy_events(library, book, videos[file])
        file_clips = [clip for clip in clips if clip.file == file]
        for n, policy in enumerate(everywhere):
            spans = _spans_of(file_clips, own_labels(policy))
            ignored = _spans_of(file_clips, set(policy.parents) - own_labels(policy))
            counts[n] += count_matches(spans, events.of(n), ignored)
            for thresholds, visual in _try_thresholds(policy, n, events).items():
                trial = count_matches(spans, [*events.speech[n], *events.text[n], *visual], ignored)
                trials[n][thresholds] = trials[n].get(thresholds, NO_COUNTS) + trial
        for label in parent_counts:
            parent_counts[label] += _count_parent_matches(label, everywhere, file_clips, events)
    on_done(len(files), len(files))
    return PolicyEvaluation(
        policies=[
            PolicyResult(
                policy=policy,
                counts=counts[n],
                trials=tuple(ThresholdTrial(enter=pair[0], leave=pair[1], counts=of) for pair, of in trials[n].items()),
            )
            for n, policy in enumerate(policies.policies)
        ],
        parents=[ParentResult(label=label, counts=of) for label, of in parent_counts.items()],
    )


def own_labels(policy: Policy) -> set[str]:
    """Return the labels of a policy that it shares with no other policy below its parents."""
    return {policy.policy_id, policy.label}


def _spans_of(clips: Sequence[LabelledSpan], labels: set[str]) -> list[TimeSpan]:
    return [clip.span for clip in clips if clip.label in labels]


def _count_parent_matches(
    parent: str, policies: Sequence[Policy], clips: Sequence[LabelledSpan], events: VideoEvents
) -> Counts:
    """Compare the events of all policies below a parent label with the spans of it and of every label below it."""
    labels: set[str] = set()
    parent_events: list[TimeSpan] = []
    for n, policy in enumerate(policies):
        if parent in {*own_labels(policy), *policy.parents}:
            narrower = policy.parents[policy.parents.index(parent) :] if parent in policy.parents else ()
            labels |= {*own_labels(policy), *narrower}
            parent_events += events.of(n)
    return count_matches(_spans_of(clips, labels), parent_events)


def count_matches(spans: Sequence[TimeSpan], events: Sequence[TimeSpan], ignored: Sequence[TimeSpan] = ()) -> Counts:
    """Compare the events in one video with the spans of their label.

    Args:
        ignored: Spans in which an event may be right. An event that overlaps only such spans is not counted.
    """
    events = [event for event in events if _overlaps_any(event, spans) or not _overlaps_any(event, ignored)]
    return Counts(
        span_count=len(spans),
        found_count=sum(_overlaps_any(span, events) for span in spans),
        event_count=len(events),
        right_count=sum(_overlaps_any(event, spans) for event in events),
    )


def _overlaps_any(span: TimeSpan, others: Sequence[TimeSpan]) -> bool:
    return any(span.start_seconds < other.end_seconds and other.start_seconds < span.end_seconds for other in others)


def find_policy_events(library: Library, book: Rulebook, video: Video) -> VideoEvents:
    """Score a video by all policies, as a server does."""
    engine, scorer = library.engine, VideoScorer(book)
    confidences, pts_seconds, findings = None, np.empty(0), []
    with engine.snapshot():
        final = FinalUtterances(engine.catalog)
        utterances, lines = final.after(video, -1), final.lines_after(video, -1)
        if engine.visual is not None and book.frame_scorer is not None:
            frames = engine.visual.frames.get(video.row, video.version)
            pts_seconds, rows = frames.pts_seconds, np.arange(len(frames))
            if len(rows):  # a video of sound alone has no frame
                confidences = book.frame_scorer.confidences(frames.vectors.take(rows))
            findings += list(scorer.add_frames(frames))
    findings += scorer.add_words(scorer.speech, utterances, video.duration_seconds)
    findings += scorer.add_words(scorer.text, lines, video.duration_seconds)
    findings += scorer.finish(video.duration_seconds)
    spans: dict[str, list[list[TimeSpan]]] = {name: [[] for _ in book.policies] for name in CHANNELS}
    for finding in findings:
        if finding.kind is ChangeKind.CLOSED:
            span = TimeSpan(start_seconds=finding.start_seconds, end_seconds=finding.end_seconds)
            spans[finding.channel][finding.policy].append(span)
    return VideoEvents(video=video, confidences=confidences, pts_seconds=pts_seconds, **spans)


def _try_thresholds(policy: Policy, n: int, events: VideoEvents) -> dict[tuple[float, float], list[TimeSpan]]:
    """Return the visual events that policy n would have with each other pair of thresholds; empty without frames."""
    if events.confidences is None or not policy.shows:
        return {}
    pairs = [(enter, round(share * enter, 3)) for enter in ENTERS for share in LEAVE_SHARES]
    tracks = Hysteresis(
        Rules(
            enter=np.array([enter for enter, _ in pairs]),
            leave=np.array([leave for _, leave in pairs]),
            min_seconds=np.full(len(pairs), policy.min_seconds),
            cooldown_seconds=np.full(len(pairs), policy.cooldown_seconds),
        )
    )
    changes = []
    times = events.pts_seconds.tolist()
    for seconds, confidence in zip(times, events.confidences[:, n], strict=True):
        changes += tracks.step(seconds, np.full(len(pairs), confidence))
    changes += tracks.finish(max(events.video.duration_seconds, times[-1] if times else 0.0))
    spans: dict[tuple[float, float], list[TimeSpan]] = {pair: [] for pair in pairs}
    for change in changes:
        if change.kind is ChangeKind.CLOSED:
            span = TimeSpan(start_seconds=change.start_seconds, end_seconds=change.end_seconds)
            spans[pairs[change.track]].append(span)
    return spans


def policy_figures(evaluation: PolicyEvaluation) -> list[dict[str, Any]]:
    """Return the figures that `--json` prints: of each policy, then of the parent labels, which have no thresholds."""
    return [
        *(_policy_json(result) for result in evaluation.policies),
        *(
            {"policy_id": None, "label": result.label, **_counts_json(None, None, result.counts), "suggested": None}
            for result in evaluation.parents
        ),
    ]


def _policy_json(result: PolicyResult) -> dict[str, Any]:
    policy, suggested = result.policy, result.suggested
    return {
        "policy_id": policy.policy_id,
        "label": policy.label,
        **_counts_json(policy.enter, policy.leave, result.counts),
        "suggested": None if suggested is None else _counts_json(suggested.enter, suggested.leave, suggested.counts),
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
