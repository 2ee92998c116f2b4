"""Events from videos: the scoring of one video by the policies, as far as the video goes.

What is seen and what is said are followed apart, each from where it was left: pictures are there within seconds, words
when they are final. All is decided by media time, so the events of a video are the same whether it was followed live,
in any batches and through any restart, or scored afterwards.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from encoders.values import Utterance, Word
from serve.event import Event, EventState, event_id
from serve.moderation.policies import Policies, Policy
from serve.moderation.scoring import Screen, Sought
from serve.moderation.words import Heard, Listener, earliest_seconds, following
from serve.search.video_rows import VideoFrames
from serve.search.visual import VisualChannel
from serve.values import MatchedWord, Video
from temporal.hysteresis import Change, Hysteresis, Rules
from temporal.values import ChangeKind

FRAME_COUNT = 4096  # frames compared at once: 36 hours at one a second would be 100 MB
MOST_WORDS = 50  # told with one event
LAYOUT = 1  # of the state below, and of what is decided: with another one, all is scored anew


class Rulebook:
    """The policies that hold for one collection, ready to be scored by."""

    def __init__(self, policies: Policies, collection: str, visual: VisualChannel | None, fingerprint: str) -> None:
        self.version, self.fingerprint = policies.version, fingerprint
        self.policies = [one for one in policies.policies if not one.collections or collection in one.collections]
        self.listener = Listener(self.policies)
        self.rules = Rules(
            enter=np.array([one.enter for one in self.policies]),
            leave=np.array([one.leave for one in self.policies]),
            min_seconds=np.array([one.min_seconds for one in self.policies]),
            cooldown_seconds=np.array([one.cooldown_seconds for one in self.policies]),
        )
        self.screen: Screen | None = None
        templates: Sequence[str] = ()
        if visual is not None:
            self.screen = Screen([sought_by(one, visual) for one in self.policies], visual.bank)
            templates = visual.calibration.templates
        content = [LAYOUT, policies.version, fingerprint, templates, [asdict(one) for one in self.policies]]
        self.digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def sought_by(policy: Policy, visual: VisualChannel) -> Sought:
    """Turn a policy's prompts into vectors."""
    none = [np.empty((0, visual.bank.shape[1]), np.float32)]
    return Sought(
        shown=np.concatenate([*none, *(visual.encode_text(text)[None] for text in policy.shows)]),
        unlike=np.concatenate([*none, *(visual.encode_text(text)[None] for text in policy.unlike)]),
    )


@dataclass(slots=True, kw_only=True)
class SaidSoFar:
    """Words of one policy that are said, and may be followed by others."""

    epoch: int
    start_seconds: float
    end_seconds: float
    confidence: float
    words: list[Word]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A change of something that a policy found."""

    policy: int
    kind: ChangeKind
    channel: Literal["visual", "speech"]
    epoch: int
    start_seconds: float
    end_seconds: float
    confidence: float
    best_frame_seconds: float | None = None
    words: tuple[Word, ...] = ()


class Screening:
    """How far one video is scored by a rulebook, and what goes on in it there."""

    def __init__(self, book: Rulebook, kept: dict[str, Any] | None = None) -> None:
        """Begin, or go on from what `kept()` gave."""
        kept = kept or {"tracks": {}, "said": {}, "before": []}
        self.book = book
        self.epoch: int = kept.get("epoch", 0)  # of the frames
        self.frames_after: float = kept.get("frames_after", -1.0)  # seconds: the next frames are later
        self.speech_epoch: int = kept.get("speech_epoch", 0)
        self.words_after: int = kept.get("words_after", -1)  # position of the last utterance heard
        self.is_over: bool = kept.get("is_over", False)
        self.tracks = Hysteresis.restored(book.rules, {int(n): state for n, state in kept["tracks"].items()})
        self.said = {
            int(n): SaidSoFar(**{**values, "words": [Word(**word) for word in values["words"]]})
            for n, values in kept["said"].items()
        }
        self.before = tuple(Word(**word) for word in kept["before"])

    def kept(self) -> dict[str, Any]:
        """Return all of it as JSON's types."""
        return {
            "epoch": self.epoch,
            "frames_after": self.frames_after,
            "speech_epoch": self.speech_epoch,
            "words_after": self.words_after,
            "is_over": self.is_over,
            "tracks": {n: self.tracks.state(n) for n in range(len(self.book.policies))},
            "said": {n: asdict(said) for n, said in self.said.items()},
            "before": [asdict(word) for word in self.before],
        }

    # ---- what is seen

    def see(self, frames: VideoFrames) -> Iterator[Found]:
        """Take the frames that are new in a version of the video."""
        first = int(np.searchsorted(frames.pts_seconds, self.frames_after, "right"))
        if first < len(frames.pts_seconds):
            self.is_over = False
        if self.book.screen is None:
            return
        for start in range(first, len(frames), FRAME_COUNT):
            places = np.arange(start, min(start + FRAME_COUNT, len(frames)))
            confidences = self.book.screen.confidences(frames.vectors.take(places))
            yield from self._watched(frames.epochs[places], frames.pts_seconds[places], confidences)

    def _watched(
        self, epochs: NDArray[np.int32], pts_seconds: NDArray[np.float64], confidences: NDArray[np.float64]
    ) -> Iterator[Found]:
        for epoch, seconds, confidence in zip(epochs.tolist(), pts_seconds.tolist(), confidences, strict=True):
            if epoch != self.epoch:
                yield from self._shown(self.tracks.finish(seconds))
                self.epoch = epoch
            yield from self._shown(self.tracks.step(seconds, confidence))
            self.frames_after = seconds

    def _shown(self, changes: Sequence[Change]) -> Iterator[Found]:
        for change in changes:
            yield Found(
                policy=change.track,
                kind=change.kind,
                channel="visual",
                epoch=self.epoch,
                start_seconds=change.start_seconds,
                end_seconds=change.end_seconds,
                confidence=change.peak,
                best_frame_seconds=change.peak_seconds,
            )

    # ---- what is said

    def hear(self, utterances: Sequence[tuple[int, Utterance]], until_seconds: float) -> Iterator[Found]:
        """Take final utterances with their positions, in order: all that begin before a time."""
        for position, utterance in utterances:
            self.is_over = False
            if utterance.epoch != self.speech_epoch:
                yield from self._silent(list(self.said))
                self.before, self.speech_epoch = (), utterance.epoch
            heard = sorted(self.book.listener.hear(self.before, utterance), key=lambda one: one.policy)
            for policy, mine in groupby(heard, key=lambda one: one.policy):
                yield from self._said(policy, list(mine))
            self.before, self.words_after = following(self.before, utterance), position
        pauses = self.book.rules.cooldown_seconds
        next_seconds = earliest_seconds(self.before, until_seconds)
        yield from self._silent([n for n, said in self.said.items() if next_seconds - said.end_seconds > pauses[n]])

    def _said(self, policy: int, heard: Sequence[Heard]) -> Iterator[Found]:
        """Take what an utterance holds of one policy's words."""
        pause = self.book.rules.cooldown_seconds[policy]
        is_told = True
        for one in heard:
            start, end = one.words[0].start_seconds, one.words[-1].end_seconds
            if policy in self.said and start - self.said[policy].end_seconds > pause:
                if not is_told:
                    yield self._told(policy, ChangeKind.UPDATED)
                yield from self._silent([policy])
            said = self.said.get(policy)
            if said is None:
                self.said[policy] = SaidSoFar(
                    epoch=self.speech_epoch, start_seconds=start, end_seconds=end, confidence=one.confidence,
                    words=list(one.words),
                )  # fmt: skip
                yield self._told(policy, ChangeKind.OPENED)
                is_told = True
                continue
            said.end_seconds = max(said.end_seconds, end)
            said.confidence = max(said.confidence, one.confidence)
            said.words += [word for word in one.words if word not in said.words]
            del said.words[MOST_WORDS:]
            is_told = False
        if not is_told:
            yield self._told(policy, ChangeKind.UPDATED)

    def _silent(self, policies: Sequence[int]) -> Iterator[Found]:
        """End what is not said any more."""
        for policy in policies:
            yield self._told(policy, ChangeKind.CLOSED)
            del self.said[policy]

    def _told(self, policy: int, kind: ChangeKind) -> Found:
        said = self.said[policy]
        return Found(
            policy=policy,
            kind=kind,
            channel="speech",
            epoch=said.epoch,
            start_seconds=said.start_seconds,
            end_seconds=said.end_seconds,
            confidence=said.confidence,
            words=tuple(said.words),
        )

    # ---- the end

    def end(self, seconds: float) -> Iterator[Found]:
        """The video ends here, as far as is known."""
        if not self.is_over:
            yield from self._shown(self.tracks.finish(seconds))
            yield from self._silent(list(self.said))
        self.is_over = True

    def events(self, video: Video, found: Sequence[Found]) -> list[Event]:
        """Return the events that changes are of."""
        return [event_from(video, self.book, one) for one in found]


def event_from(video: Video, book: Rulebook, found: Found) -> Event:
    """Return the event that a change is of, in the state it has then."""
    policy = book.policies[found.policy]
    start = found.start_seconds
    return Event(
        event_id=event_id(policy.policy_id, video.collection, video.video_id, found.epoch, found.channel, start),
        state=EventState(found.kind.value),
        channel=found.channel,
        label=policy.label,
        parents=policy.parents,
        confidence=found.confidence,
        collection=video.collection,
        video_id=video.video_id,
        epoch=found.epoch,
        start_seconds=start,
        end_seconds=found.end_seconds,
        policy_id=policy.policy_id,
        policy_version=book.version,
        fingerprint=book.fingerprint,
        action=policy.action,
        recorded_time=video.recorded_at(start),
        best_frame_seconds=found.best_frame_seconds,
        matched_words=tuple(
            MatchedWord(text=word.text, start_seconds=word.start_seconds, end_seconds=word.end_seconds)
            for word in found.words
        ),
    )
