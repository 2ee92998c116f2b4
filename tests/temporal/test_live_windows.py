"""temporal.window: a video cut bit by bit is cut as the whole video is."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.values import FrameEmbeddings, Utterance
from temporal.config import FusionConfig, WindowConfig
from temporal.fusion.fusion import Fusion, MeanPooling, save_checkpoint
from temporal.fusion.model import FusionTransformer
from temporal.values import Pooling
from temporal.window import ALL_HEARD, CutSegment, EncodedFrame, EncodedUtterance, WindowCutter, cut_video, overlaps

CONFIG = WindowConfig()


def frame_at(at: float) -> EncodedFrame:
    vector = np.array([math.cos(at), math.sin(at)], np.float32)
    return EncodedFrame(pts_seconds=at, vector=vector, thumbnail=f"{at:.3f}".encode())


def utterance_in(start: float, end: float, epoch: int = 0) -> EncodedUtterance:
    utterance = Utterance(
        epoch=epoch, start_seconds=start, end_seconds=end, text=f"{start:.3f}", words=(), language="en",
        avg_logprob=-0.1, no_speech_prob=0.0,
    )  # fmt: skip
    return EncodedUtterance(utterance=utterance, vector=np.ones(2, np.float32))


def extend(live: WindowCutter, until: float, frames: list[EncodedFrame], *, epoch: int = 0, start: float = 0.0) -> None:
    live.add_frames(epoch, frames, start_seconds=start, end_seconds=until, whole_seconds=until)


@pytest.fixture(params=["mean", "fusion"])
def pooling(request: pytest.FixtureRequest, tmp_path: Path) -> Pooling:
    if request.param == "mean":
        return MeanPooling()
    torch.manual_seed(0)
    model = FusionTransformer(FusionConfig(frame_size=2, utterance_size=2, width=16, head_count=2))
    torch.nn.init.normal_(model.weighing.weight)
    save_checkpoint(model, tmp_path / "checkpoint")
    fusion = Fusion(tmp_path / "checkpoint", "cpu")
    fusion.load(2, 2)
    return fusion


def final(found: list[CutSegment]) -> dict[str, CutSegment]:
    return {one.segment.segment_id: one for one in found if one.is_final}


@pytest.mark.parametrize("seconds", [3.0, 16.0, 16.5, 24.0, 24.5, 61.3])
@pytest.mark.parametrize("chunk_seconds", [1.0, 2.0, 5.7])
def test_the_final_segments_are_those_of_the_whole_video(
    pooling: Pooling, seconds: float, chunk_seconds: float
) -> None:
    rng = random.Random(seconds)
    frames = [frame_at(at) for at in np.arange(0.2, seconds, 1.0)]
    spoken = [utterance_in(at, min(at + rng.uniform(0.5, 6), seconds)) for at in np.arange(0.5, seconds - 0.6, 4.0)]
    live, found, at = WindowCutter("v", CONFIG, pooling), [], 0.0
    while at < seconds:
        until = min(at + chunk_seconds, seconds)
        extend(live, until, [one for one in frames if at <= one.pts_seconds < until])
        live.add_utterances([one for one in spoken if at <= one.utterance.start_seconds < until])
        at = until
        if at == seconds:
            live.finish(is_last=True)
        found += live.segments(ALL_HEARD if at == seconds else (0, max(0.0, at - 7)))
    embeddings = FrameEmbeddings(
        epochs=np.zeros(len(frames), np.int32),
        pts_seconds=np.array([one.pts_seconds for one in frames]),
        vectors=np.stack([one.vector for one in frames]),
    )
    utterances = [one.utterance for one in spoken]
    sentences = np.stack([one.vector for one in spoken]) if spoken else np.zeros((0, 2), np.float32)
    at_once = cut_video(
        "v", embeddings, utterances, sentences, duration_seconds=seconds, config=CONFIG, pooling=pooling
    )
    ended = list(final(found).values())
    for whole, mine in zip(at_once, ended, strict=True):
        span = mine.segment.span
        assert mine.segment.segment_id == whole.segment.segment_id
        assert span == whole.segment.span
        np.testing.assert_allclose(mine.segment.vector, whole.segment.vector, atol=1e-6)
        seen_inside = [pts for pts in embeddings.pts_seconds if span.start_seconds <= pts < span.end_seconds]
        assert mine.frames.pts_seconds.tolist() == whole.frames.pts_seconds.tolist() == seen_inside
        said_inside = [one for one in utterances if overlaps(one, span)]
        assert [one.utterance for one in mine.spoken] == [one.utterance for one in whole.spoken] == said_inside
    assert [one.is_last for one in ended] == [False] * (len(ended) - 1) + [True]
    introduced = [jpeg for one in ended for jpeg in one.thumbnails]
    assert introduced == [one.thumbnail for one in frames], "each picture is introduced once"
    new = [one.utterance for segment in ended for one in segment.spoken[segment.continued_count :]]
    assert new == utterances, "and so is each utterance"


def test_a_segment_is_given_out_as_soon_as_it_is_seen_and_again_when_more_is_known() -> None:
    live = WindowCutter("v", CONFIG, MeanPooling())
    extend(live, 2.0, [frame_at(0.0), frame_at(1.0)])
    [first] = live.segments((0, 0.0))
    assert (first.revision, first.is_final, first.segment.span.end_seconds) == (2, False, 2.0)
    assert list(live.segments((0, 0.0))) == [], "nothing new"
    live.add_utterances([utterance_in(0.5, 1.5)])
    [second] = live.segments((0, 1.0))
    assert second.revision == 3
    extend(live, 17.0, [frame_at(float(at)) for at in range(2, 17)])
    revisions = {one.segment.segment_id: (one.revision, one.is_final) for one in live.segments((0, 15.9))}
    assert revisions == {"v/0/0": (17, False), "v/0/1": (9, False)}
    [ended] = live.segments((0, 16.0))
    assert (ended.segment.segment_id, ended.revision, ended.is_final) == ("v/0/0", 18, True)
    assert live.watermark_seconds == 16.0
    assert live.open_segment == (0, 1, 8.0)
    assert live.needed == (0, 8.0)


def test_words_of_an_epoch_are_awaited_before_the_next_one_is_final() -> None:
    live = WindowCutter("v", CONFIG, MeanPooling())
    extend(live, 5.0, [frame_at(0.0)])
    extend(live, 30.0, [frame_at(6.0)], epoch=1, start=5.0)
    found = list(live.segments((0, 3.0)))
    assert not any(one.is_final for one in found)
    live.add_utterances([utterance_in(3.0, 4.0)])
    found = list(live.segments((1, 25.0)))
    assert list(final(found)) == ["v/0/0", "v/1/0"]
    assert found[0].segment.span.end_seconds == 5.0, "spans never cross epochs"
    assert not found[0].is_last


def test_utterances_may_be_known_before_the_pictures_of_their_epoch() -> None:
    live = WindowCutter("v", CONFIG, MeanPooling())
    live.add_utterances([utterance_in(1.0, 2.0)])
    extend(live, 3.0, [frame_at(0.0)])
    [one] = live.segments((0, 2.5))
    assert len(one.spoken) == 1


def test_a_still_is_shown_through_the_windows_in_which_no_picture_begins() -> None:
    live = WindowCutter("v", CONFIG, MeanPooling())
    extend(live, 40.0, [frame_at(0.0)])
    live.finish(is_last=True)
    found = list(live.segments(ALL_HEARD))
    assert [one.frames.pts_seconds.tolist() for one in found] == [[0.0]] * 4
    assert [len(one.thumbnails) for one in found] == [1, 0, 0, 0]


def test_goes_on_with_the_first_segment_that_is_not_final() -> None:
    live = WindowCutter("v", CONFIG, MeanPooling(), first=(1, 2))
    extend(live, 10.0, [frame_at(9.0)])  # read again, and final long since
    extend(live, 45.0, [frame_at(10.0 + n) for n in range(35)], epoch=1, start=10.0)
    found = [one.segment.segment_id for one in live.segments(ALL_HEARD)]
    assert found == ["v/1/2", "v/1/3"]


def test_sound_that_outlasts_the_pictures_does_not_make_a_window_whole() -> None:
    live = WindowCutter("v", CONFIG, MeanPooling())
    live.add_frames(
        0, [frame_at(float(at)) for at in range(16)], start_seconds=0.0, end_seconds=16.4, whole_seconds=15.9
    )
    assert not final(list(live.segments(ALL_HEARD)))
    live.add_frames(0, [frame_at(15.95)], start_seconds=0.0, end_seconds=18.0, whole_seconds=18.0)
    [window] = final(list(live.segments(ALL_HEARD))).values()
    assert window.frames.pts_seconds[-1] == 15.95
