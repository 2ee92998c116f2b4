"""Scores one video by the moderation policies: VideoScorer turns its frames, utterances and lines of text into events.

Frames, utterances and lines are followed apart, each from the position of the last call: frames arrive within seconds,
words only when they are final. Media time decides everything. So the events of a video are the same whether it was
followed live, in batches of any size and through restarts, or scored afterwards.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.values import TextLine, Utterance
from serve.event import Event, EventState, event_id
from serve.moderation.policies import Policies, Policy
from serve.moderation.scoring import UNREACHABLE_CONFIDENCE, FrameScorer, Prompts
from serve.moderation.visual_rules import visual_rule
from serve.moderation.word_scorer import Finding, WordScorer
from serve.moderation.words import TermFinder
from serve.search.video_rows import VideoFrames
from serve.search.visual import VisualChannel
from serve.values import MatchedWord, Video
from temporal.hysteresis import Change, Hysteresis, Rules

FRAME_COUNT = 4096  # frames scored at once, which bounds memory: 36 hours at 1 fps would be 100 MB
LAYOUT = 3  # version of VideoScorer.state() and of the rules of scoring: another version scores all videos anew


class Rulebook:
    """The policies of one collection with their prompts as vectors, ready for scoring."""

    def __init__(self, policies: Policies, collection: str, visual: VisualChannel | None, fingerprint: str) -> None:
        self.version, self.fingerprint = policies.version, fingerprint
        self.policies = [
            policy for policy in policies.policies if not policy.collections or collection in policy.collections
        ]
        self.said_finder, self.written_finder = TermFinder(self.policies), TermFinder(self.policies, "text")
        self.is_visual = [  # whether pictures are compared with the prompts
            _is_visual(policy, visual) for policy in self.policies
        ]
        self.rules = Rules(
            enter=np.where(self.is_visual, [policy.enter for policy in self.policies], UNREACHABLE_CONFIDENCE),
            leave=np.array([policy.leave for policy in self.policies]),
            min_seconds=np.array([policy.min_seconds for policy in self.policies]),
            cooldown_seconds=np.array([policy.cooldown_seconds for policy in self.policies]),
        )
        self.frame_scorer: FrameScorer | None = None  # None: the library has no visual encoder
        calibration: list[Any] = []
        if visual is not None:
            states = zip(self.policies, self.is_visual, strict=True)
            prompts = [prompts_of(policy, visual, is_visual=is_visual) for policy, is_visual in states]
            self.frame_scorer = FrameScorer(prompts, visual.bank, visual.calibration.moment)
            calibration = [visual.calibration.templates, asdict(visual.calibration.moment)]
        rules = [[asdict(policy) for policy in self.policies], self.is_visual]
        content = [LAYOUT, policies.version, fingerprint, calibration, rules]
        self.digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _is_visual(policy: Policy, visual: VisualChannel | None) -> bool:
    """Return whether the pictures of a policy are compared with its prompts."""
    encoder = ("none", None) if visual is None else (visual.encoder.name, visual.encoder.fingerprint)
    rule = visual_rule(policy, *encoder)
    return rule is not None and rule.is_on


def prompts_of(policy: Policy, visual: VisualChannel, *, is_visual: bool) -> Prompts:
    """Encode a policy's prompts; none if its pictures are off."""
    shows, unlike = (policy.shows, policy.unlike) if is_visual else ((), ())
    none = [np.empty((0, visual.bank.shape[1]), np.float32)]
    return Prompts(
        shown=np.concatenate([*none, *(visual.encode_text(text)[None] for text in shows)]),
        unlike=np.concatenate([*none, *(visual.encode_text(text)[None] for text in unlike)]),
    )


class VideoScorer:
    """Scores one video by a rulebook, in steps. Holds the position of the last step and the open events."""

    def __init__(self, book: Rulebook, state: dict[str, Any] | None = None) -> None:
        """Begin at the start of the video, or resume from what state() returned."""
        state = state or {"tracks": {}, "speech": None, "text": None}
        self.book = book
        self.epoch: int = state.get("epoch", 0)  # of the frames
        self.frames_after: float = state.get("frames_after", -1.0)  # seconds; later frames are new
        self.is_over: bool = state.get("is_over", False)
        self.tracks = Hysteresis.restore(book.rules, {int(n): track for n, track in state["tracks"].items()})
        self.speech = WordScorer("speech", book.said_finder, book.rules, state["speech"])
        self.text = WordScorer("text", book.written_finder, book.rules, state["text"])

    def state(self) -> dict[str, Any]:
        """Return all that __init__ needs to resume, in types of JSON."""
        return {
            "epoch": self.epoch,
            "frames_after": self.frames_after,
            "is_over": self.is_over,
            "tracks": {n: self.tracks.state(n) for n in range(len(self.book.policies))},
            "speech": self.speech.state(),
            "text": self.text.state(),
        }

    def add_frames(self, frames: VideoFrames) -> Iterator[Finding]:
        """Score those of all frames of the video, as it is now, that are later than those of the last call."""
        first = int(np.searchsorted(frames.pts_seconds, self.frames_after, "right"))
        if first < len(frames.pts_seconds):
            self.is_over = False
        if self.book.frame_scorer is None:
            return
        for start in range(first, len(frames), FRAME_COUNT):
            rows = np.arange(start, min(start + FRAME_COUNT, len(frames)))
            confidences = self.book.frame_scorer.confidences(frames.vectors.take(rows))
            yield from self._step_frames(frames.epochs[rows], frames.pts_seconds[rows], confidences)

    def _step_frames(
        self, epochs: NDArray[np.int32], pts_seconds: NDArray[np.float64], confidences: NDArray[np.float64]
    ) -> Iterator[Finding]:
        for epoch, seconds, confidence in zip(epochs.tolist(), pts_seconds.tolist(), confidences, strict=True):
            if epoch != self.epoch:
                yield from self._visual_findings(self.tracks.finish(seconds))
                self.epoch = epoch
            yield from self._visual_findings(self.tracks.step(seconds, confidence))
            self.frames_after = seconds

    def _visual_findings(self, changes: Sequence[Change]) -> Iterator[Finding]:
        for change in changes:
            yield Finding(
                policy=change.track,
                kind=change.kind,
                channel="visual",
                epoch=self.epoch,
                start_seconds=change.start_seconds,
                end_seconds=change.end_seconds,
                confidence=change.peak,
                best_frame_seconds=change.peak_seconds,
            )

    def add_words(
        self, scorer: WordScorer, texts: Sequence[tuple[int, Utterance | TextLine]], until_seconds: float
    ) -> Iterator[Finding]:
        """Score final utterances by `speech`, or final lines by `text`; the arguments are those of WordScorer.add()."""
        self.is_over = self.is_over and not texts
        yield from scorer.add(texts, until_seconds)

    def finish(self, seconds: float) -> Iterator[Finding]:
        """Close all events at the end of the video, as far as its end is known."""
        if not self.is_over:
            yield from self._visual_findings(self.tracks.finish(seconds))
            yield from self.speech.close()
            yield from self.text.close()
        self.is_over = True

    def events(self, video: Video, findings: Sequence[Finding]) -> list[Event]:
        return [event_of_finding(video, self.book, finding) for finding in findings]


def event_of_finding(video: Video, book: Rulebook, finding: Finding) -> Event:
    """Return the event of a finding, in the state after that change."""
    policy = book.policies[finding.policy]
    start = finding.start_seconds
    return Event(
        event_id=event_id(policy.policy_id, video.collection, video.video_id, finding.epoch, finding.channel, start),
        state=EventState(finding.kind.value),
        channel=finding.channel,
        label=policy.label,
        parents=policy.parents,
        confidence=finding.confidence,
        collection=video.collection,
        video_id=video.video_id,
        epoch=finding.epoch,
        start_seconds=start,
        end_seconds=finding.end_seconds,
        policy_id=policy.policy_id,
        policy_version=book.version,
        fingerprint=book.fingerprint,
        action=policy.action,
        recorded_time=video.recorded_at(start),
        best_frame_seconds=finding.best_frame_seconds,
        matched_words=tuple(
            MatchedWord(text=word.text, start_seconds=word.start_seconds, end_seconds=word.end_seconds)
            for word in finding.words
        ),
    )
