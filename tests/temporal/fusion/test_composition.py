"""Composed videos: what happens in them is what their captions tell."""

import numpy as np
import pytest

from support.training_sets import directions
from temporal.fusion.composition import (
    EVENT_SECONDS,
    KINDS,
    LONGEST_SECONDS,
    SHORTEST_SECONDS,
    TEST_SENTENCES,
    ComposedVideo,
    Composer,
    LabelledViews,
)

THINGS = directions(6)  # one vector for each label


def composer(**options: object) -> Composer:
    views = LabelledViews(
        vectors=np.repeat(THINGS, 2, axis=0)[:, None, :].repeat(2, axis=1),
        labels=[f"thing {n // 2}" for n in range(12)],
        captions=[[f"a thing {n // 2}"] for n in range(12)],
    )
    return Composer(views, ["wine", "chess"], np.random.default_rng(4), **options)  # type: ignore[arg-type]


def shown(video: ComposedVideo) -> list[str]:
    """Return the caption of the thing that each second shows."""
    return [f"a thing {n}" for n in (video.frames @ THINGS.T).argmax(axis=1)]


def test_kinds_take_turns_and_twins_stay_together() -> None:
    kinds = [video.kind for video in composer().compose(10)]
    assert kinds == ["held", "event", "order", "order", "both", "held", "event", "order", "order", "both"]
    assert [video.kind for video in composer().compose(3)] == ["held", "event", "order", "order"]


def test_a_caption_tells_what_its_part_shows() -> None:
    for video in composer().compose(40, ("held", "event")):
        told = video.captions[0]
        part = shown(video)[int(told.start_seconds) : int(told.end_seconds)]
        assert set(part) == {told.text} == {video.things[0]}
        assert SHORTEST_SECONDS <= len(video.frames) <= LONGEST_SECONDS
        if video.kind == "event":
            assert len(part) <= EVENT_SECONDS
            assert video.captions[1].text == video.things[1] in shown(video) or len(part) == len(video.frames)


def test_twins_show_the_same_frames_in_the_other_order() -> None:
    one, other = composer().compose(2, ("order",))
    assert sorted(map(bytes, one.frames)) == sorted(map(bytes, other.frames))
    for video in (one, other):
        first, second = video.things
        assert video.captions[0].text.startswith(first)
        assert list(dict.fromkeys(shown(video))) == [first, second]


def test_what_is_said_is_in_a_caption_only_if_it_is_the_topic() -> None:
    for video in composer(sentences=TEST_SENTENCES).compose(20, ("both",)):
        topic = video.things[1]
        assert topic in video.captions[0].text
        assert any(topic in said.text for said in video.said)
        assert all(0 <= said.start_seconds < said.end_seconds <= len(video.frames) for said in video.said)
    quiet = composer().compose(20, ("order",))
    assert not any(video.said for video in quiet)


def test_the_same_seed_composes_the_same_videos() -> None:
    one, other = composer().compose(8), composer().compose(8)
    assert all(np.array_equal(a.frames, b.frames) and a.captions == b.captions for a, b in zip(one, other, strict=True))
    assert {video.kind for video in one} == set(KINDS)


def test_pictures_of_one_label_are_refused() -> None:
    views = LabelledViews(vectors=THINGS[:1, None, :], labels=["cat"], captions=[["a cat"]])
    with pytest.raises(ValueError, match="at least two labels"):
        Composer(views, ["wine"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="no topic"):
        Composer(views, [], np.random.default_rng(0))
