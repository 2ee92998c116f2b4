"""WordScorer: follows what is said, or what is written, in one video, and finds the events of policies in it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from encoders.values import TextLine, Utterance, Word
from serve.catalog.speech.stemming import ENGLISH
from serve.moderation.words import (
    TermFinder,
    TermMatch,
    WordChannel,
    earliest_start_seconds,
    next_context,
    words_in,
    words_of_line,
)
from temporal.hysteresis import Rules
from temporal.values import ChangeKind

MAX_WORD_COUNT = 50  # matched words of one event


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A change of one event: a policy's event opens, is updated, or closes."""

    policy: int  # index into Rulebook.policies
    kind: ChangeKind
    channel: Literal["visual", "speech", "text"]
    epoch: int
    start_seconds: float
    end_seconds: float
    confidence: float
    best_frame_seconds: float | None = None
    words: tuple[Word, ...] = ()


@dataclass(slots=True, kw_only=True)
class OpenEvent:
    """An event of one policy's words that later words may extend."""

    epoch: int
    start_seconds: float
    end_seconds: float
    confidence: float
    words: list[Word]


class WordScorer:
    """Finds the events in the utterances of one video, or in its lines of text. Holds its position and open events."""

    def __init__(
        self, channel: WordChannel, finder: TermFinder, rules: Rules, state: dict[str, Any] | None = None
    ) -> None:
        """Begin at the start of the video, or resume from what state() returned."""
        state = state or {}
        self.channel, self._finder, self._rules = channel, finder, rules
        self.after: int = state.get("after", -1)  # position of the last utterance or line; later ones are new
        self._epoch: int = state.get("epoch", 0)
        self._context = tuple(Word(**word) for word in state.get("context", ()))  # words before the next ones
        self._events = {
            int(n): OpenEvent(**{**values, "words": [Word(**word) for word in values["words"]]})
            for n, values in state.get("events", {}).items()
        }

    def state(self) -> dict[str, Any]:
        """Return all that __init__ needs to resume, in types of JSON."""
        return {
            "after": self.after,
            "epoch": self._epoch,
            "context": [asdict(word) for word in self._context],
            "events": {n: asdict(event) for n, event in self._events.items()},
        }

    def add(self, texts: Sequence[tuple[int, Utterance | TextLine]], until_seconds: float) -> Iterator[Finding]:
        """Score final utterances or lines, and close the events that no later word can extend.

        They come with their positions, in order: all new ones that begin before `until_seconds`.
        """
        for position, text in texts:
            if isinstance(text, Utterance):
                words, language = words_in(text), text.language
            else:
                words, language = words_of_line(text), ENGLISH
            if text.epoch != self._epoch:
                yield from self.close()
                self._context, self._epoch = (), text.epoch
            if self.channel == "text" and self._context and self._context[-1].start_seconds != text.start_seconds:
                self._context = ()  # a phrase may go over two lines of one picture, and of no others
            matches = sorted(self._finder.find(self._context, words, language), key=lambda match: match.policy)
            for policy, matches_of_policy in groupby(matches, key=lambda match: match.policy):
                yield from self._add_matches(policy, list(matches_of_policy))
            self._context, self.after = next_context(self._context, words), position
        cooldowns = self._rules.cooldown_seconds
        next_seconds = earliest_start_seconds(self._context, until_seconds)
        yield from self.close(
            [n for n, event in self._events.items() if next_seconds - event.end_seconds > cooldowns[n]]
        )

    def close(self, policies: Sequence[int] | None = None) -> Iterator[Finding]:
        """Close the open events of some policies; None: of all."""
        for policy in list(self._events) if policies is None else policies:
            yield self._finding(policy, ChangeKind.CLOSED)
            del self._events[policy]

    def _add_matches(self, policy: int, matches: Sequence[TermMatch]) -> Iterator[Finding]:
        """Add the matches of one policy in one text: they extend its open event, or open another."""
        cooldown_seconds = self._rules.cooldown_seconds[policy]
        has_update = False  # words were added to the open event, and no finding says so yet
        for match in matches:
            start, end = match.words[0].start_seconds, match.words[-1].end_seconds
            event = self._events.get(policy)
            if event is not None and start - event.end_seconds > cooldown_seconds:
                if has_update:
                    yield self._finding(policy, ChangeKind.UPDATED)
                yield from self.close([policy])
                event = None
            if event is None:
                self._events[policy] = OpenEvent(
                    epoch=self._epoch, start_seconds=start, end_seconds=end, confidence=match.confidence,
                    words=list(match.words),
                )  # fmt: skip
                yield self._finding(policy, ChangeKind.OPENED)
                has_update = False
                continue
            event.end_seconds = max(event.end_seconds, end)
            event.confidence = max(event.confidence, match.confidence)
            event.words += [word for word in match.words if word not in event.words]
            del event.words[MAX_WORD_COUNT:]
            has_update = True
        if has_update:
            yield self._finding(policy, ChangeKind.UPDATED)

    def _finding(self, policy: int, kind: ChangeKind) -> Finding:
        event = self._events[policy]
        return Finding(
            policy=policy,
            kind=kind,
            channel=self.channel,
            epoch=event.epoch,
            start_seconds=event.start_seconds,
            end_seconds=event.end_seconds,
            confidence=event.confidence,
            words=tuple(event.words),
        )
