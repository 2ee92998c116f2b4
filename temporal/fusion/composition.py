"""Composes training videos from the vectors of labelled pictures: what happens in them, and when, is known.

A composed video is a row of frames, one a second, with invented sentences said beside them, and captions of the whole
or of a part. There are four kinds, in turn:

held    one thing, in one to three pictures of it, for the whole video
event   one thing for one to four seconds, among frames of another thing
order   one thing, then another; a twin has the same frames in the other order
both    one thing, while somebody talks about something else

The frames of one picture differ, like those of a shot: each is one of several views of the picture, with some noise.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

KINDS = ("held", "event", "order", "both")
# What comes first is named first, and no word stands before it. MiniLM weighs most what a sentence names first, and its
# vectors of "first A, then B" and "first B, then A" hardly differ.
ORDERS = ("{first} followed by {second}", "{first}, then {second}", "{first} and then {second}")
SEEN_AND_SAID = (
    "{seen}, while somebody talks about {said}", "{seen} and a voice talking about {said}",
    "somebody talks about {said} and we see {seen}", "{seen} with speech about {said}",
    "{seen}, and somebody says {said}",
)  # fmt: skip
SAID = ("somebody talks about {said}", "a person speaking about {said}", "a talk about {said}", "{said}")
# Forms of the sentences that are said. A set to test on has forms that the set to train on has not.
SENTENCES = (
    "Let me tell you about {}.", "What everybody talks about today is {}.", "I have never understood {}.",
    "My sister wrote a book on {}.", "There is some news about {}.", "We should discuss {} again.",
    "So, this is {}, as you can see.", "Now we look at {}, and then I will show you something else.",
    "You know, {} is what I like best.", "And that is why we need {}.", "When I was young, I often thought of {}.",
    "This is how {} works.", "Look at {}!",
)  # fmt: skip
TEST_SENTENCES = (
    "Here is what I think of {}.", "Nobody asked me, but {} matters.", "So how did {} go?",
    "In this video we talk about {}.",
)  # fmt: skip
FILLERS = (
    "Thank you very much.", "All right, let's go on.", "So, as I said before.", "I don't know, really.",
    "Okay, here we go.", "And then it was over.", "Can you hear me?", "That is a good question.",
)  # fmt: skip
SHORTEST_SECONDS, LONGEST_SECONDS = 8, 32  # of a composed video; longer than a window too, so that it has several
ORDER_SECONDS = (12, 16)  # of a video of two things: a caption of both holds only for a window with both
EVENT_SECONDS = 4  # longest event
MOST_PICTURES = 3  # of a thing that is shown in one go
NOISE = 0.2  # length of the random vector that is added to a frame's unit vector
TALK_SHARE = 0.5  # share of videos of which no caption names what is said, where somebody talks all the same
MOST_SENTENCES = 4  # said in a video


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledViews:
    """Pictures as vectors. Pictures of one label show the same thing."""

    vectors: NDArray[np.float32]  # (P, V, D), unit length: V views of each picture
    labels: Sequence[str]  # P
    captions: Sequence[Sequence[str]]  # P, of each picture at least one

    @cached_property
    def pictures(self) -> dict[str, list[int]]:
        """The pictures of each label."""
        found: dict[str, list[int]] = {}
        for picture, label in enumerate(self.labels):
            found.setdefault(label, []).append(picture)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A sentence and when it is said."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A caption, and the part of its video that it describes."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComposedVideo:
    """One video of one frame a second."""

    kind: str  # one of KINDS
    things: tuple[str, ...]  # shown: captions of one thing, or of the first and the second; in "both" then the topic
    frames: NDArray[np.float32]  # (F, D), unit length
    said: tuple[Said, ...]
    captions: tuple[Told, ...]


class Composer:
    """Composes videos at random."""

    def __init__(
        self,
        views: LabelledViews,
        topics: Sequence[str],
        rng: np.random.Generator,
        *,
        sentences: Sequence[str] = SENTENCES,
    ) -> None:
        """Take the material.

        Args:
            topics: What is talked about.
            sentences: Forms of what is said, with a place for a topic.
        Raises:
            ValueError: If the pictures have fewer than two labels, or there is nothing to talk about.
        """
        if not topics:
            raise ValueError("there is no topic to talk about")
        self._views, self._topics, self._rng, self._sentences = views, topics, rng, sentences
        self._labels = list(views.pictures)
        if len(self._labels) < 2:
            raise ValueError(f"pictures of at least two labels are needed, got {len(self._labels)}")

    def compose(self, count: int, kinds: Sequence[str] = KINDS) -> list[ComposedVideo]:
        """Return `count` videos, or one more: the twins of "order" stay together, one after the other."""
        makers: dict[str, Callable[[], list[ComposedVideo]]] = {
            "held": self._held, "event": self._event, "order": self._order, "both": self._both,
        }  # fmt: skip
        videos: list[ComposedVideo] = []
        for kind in itertools.cycle(kinds):
            if len(videos) >= count:
                break
            videos += makers[kind]()
        return videos

    def _held(self) -> list[ComposedVideo]:
        length = self._draw(SHORTEST_SECONDS, LONGEST_SECONDS)
        frames, caption = self._show(self._one_of(self._labels), length)
        return [self._video("held", (caption,), frames, [(caption, 0, length)], self._small_talk(length))]

    def _event(self) -> list[ComposedVideo]:
        length, event_length = self._draw(SHORTEST_SECONDS, LONGEST_SECONDS), self._draw(1, EVENT_SECONDS)
        event, background = self._two_labels()
        frames, background_caption = self._show(background, length)
        start = self._draw(0, length - event_length)
        end = start + event_length
        frames[start:end], caption = self._show(event, event_length)
        captions = [(caption, start, end), (background_caption, 0, length)]
        return [self._video("event", (caption, background_caption), frames, captions, self._small_talk(length))]

    def _order(self) -> list[ComposedVideo]:
        length = self._draw(*ORDER_SECONDS)
        before = self._draw(length // 3, length - length // 3)
        one, other = self._two_labels()
        shown = [self._show(one, before), self._show(other, length - before)]
        form = self._one_of(ORDERS)
        twins = []
        for (first, caption), (second, next_caption) in (shown, shown[::-1]):
            text = form.format(first=caption, second=next_caption)
            frames = np.concatenate([first, second])
            twins.append(self._video("order", (caption, next_caption), frames, [(text, 0, length)], ()))
        return twins

    def _both(self) -> list[ComposedVideo]:
        length = self._draw(SHORTEST_SECONDS, LONGEST_SECONDS)
        frames, caption = self._show(self._one_of(self._labels), length)
        topic = self._one_of(self._topics)
        together = self._one_of(SEEN_AND_SAID).format(seen=caption, said=topic)
        spoken = self._one_of(SAID).format(said=topic)
        captions = [(text, 0, length) for text in (together, caption, spoken)]
        return [self._video("both", (caption, topic), frames, captions, self._talk(topic, length))]

    # ---- parts of a video

    def _show(self, label: str, count: int) -> tuple[NDArray[np.float32], str]:
        """Return frames (count, D) of a thing, and a caption of its first picture."""
        pictures = self._rng.permutation(self._views.pictures[label])[: self._draw(1, MOST_PICTURES)][:count]
        cuts = np.sort(self._rng.permutation(np.arange(1, count))[: len(pictures) - 1])
        shown = pictures[np.searchsorted(cuts, np.arange(count), side="right")]
        vectors = self._views.vectors
        frames = vectors[shown, self._rng.integers(vectors.shape[1], size=count)]
        width = vectors.shape[2]
        frames = frames + self._rng.normal(size=(count, width)) * (NOISE / np.sqrt(width))
        frames = frames / np.linalg.norm(frames, axis=1, keepdims=True)
        return frames.astype(np.float32), self._one_of(self._views.captions[int(pictures[0])])

    def _small_talk(self, length: int) -> tuple[Said, ...]:
        """Return sentences about anything, or none."""
        return self._talk(self._one_of(self._topics), length) if self._rng.random() < TALK_SHARE else ()

    def _talk(self, topic: str, length: int) -> tuple[Said, ...]:
        """Return one sentence about a topic, among others about nothing."""
        count = self._draw(1, MOST_SENTENCES)
        texts = [self._one_of(FILLERS) for _ in range(count)]
        texts[self._draw(0, count - 1)] = self._one_of(self._sentences).format(topic)
        each = length / count
        return tuple(
            Said(start_seconds=n * each, end_seconds=(n + 1) * each, text=text) for n, text in enumerate(texts)
        )

    def _video(
        self,
        kind: str,
        things: tuple[str, ...],
        frames: NDArray[np.float32],
        captions: Sequence[tuple[str, int, int]],
        said: tuple[Said, ...],
    ) -> ComposedVideo:
        told = tuple(
            Told(text=text, start_seconds=float(start), end_seconds=float(end)) for text, start, end in captions
        )
        return ComposedVideo(kind=kind, things=things, frames=frames, said=said, captions=told)

    # ---- random choices

    def _two_labels(self) -> tuple[str, str]:
        one, other = self._rng.permutation(len(self._labels))[:2]
        return self._labels[one], self._labels[other]

    def _one_of(self, choices: Sequence[str]) -> str:
        return choices[int(self._rng.integers(len(choices)))]

    def _draw(self, least: int, most: int) -> int:
        return int(self._rng.integers(least, most + 1))
