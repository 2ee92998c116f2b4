"""serve.worker.whole_file: the pieces of a file end in the segments that indexing makes of the whole file."""

from dataclasses import replace

import numpy as np
import pytest

from encoders.values import FrameEmbeddings
from ingest.stream.stream_clock import EpochPart
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame
from serve.worker.video_flow import VideoFlow
from serve.worker.whole_file import PIECE_FRAMES, FileCutter
from support.worker_fakes import MEDIA, PIXELS
from temporal.config import WindowConfig
from temporal.fusion.fusion import MeanPooling
from temporal.window import cut_video

FILM = replace(MEDIA, audio_codec=None)
SONG = replace(MEDIA, video_codec=None)


def frame(at: float, epoch: int = 0) -> Frame:
    return Frame(epoch=epoch, pts_seconds=at, pixels=PIXELS, thumbnail=f"{at:.3f}".encode())


def vector_of(picture: Frame) -> np.ndarray:
    return np.array([np.cos(picture.pts_seconds), np.sin(picture.pts_seconds)], np.float32)


def summary(seconds: float) -> DecodeSummary:
    return DecodeSummary(
        duration_seconds=seconds, epoch_count=1, frame_count=0, error_count=0, truncated=False,
    )  # fmt: skip


def pieces_of(items: list[Decoded]) -> list[EpochPart]:
    cutter = FileCutter()
    return [placed for item in items for placed in cutter.push(item)]


@pytest.mark.parametrize(
    "epochs",
    [
        [(0, 0.0, 3)],
        [(0, 0.0, PIECE_FRAMES)],
        [(0, 0.0, 40)],
        [(0, 0.0, 2 * PIECE_FRAMES)],
        [(0, 0.0, 10), (1, 12.5, 30)],
        [(0, 0.0, PIECE_FRAMES), (1, 16.0, PIECE_FRAMES)],
        [(0, 0.25, 20), (1, 20.0, 1), (2, 21.0, 40)],
    ],
)
def test_segments_of_the_pieces_are_those_of_the_whole_file(epochs: list[tuple[int, float, int]]) -> None:
    frames = [frame(start + n, epoch) for epoch, start, count in epochs for n in range(count)]
    seconds = frames[-1].pts_seconds + 1.0
    flow = VideoFlow(
        "films", "v", transcriber=None, window=WindowConfig(), pooling=MeanPooling(), fingerprint="f", uri="file:///v"
    )
    records = []
    for placed in pieces_of([FILM, *frames, summary(seconds)]):
        submission = flow.place(placed, append_seconds=0.0, recorded_time=None)
        if placed.frames:
            submission.step.vectors = np.stack([vector_of(one) for one in placed.frames])
        records += flow.records()
    flow.end(is_last=True)
    records += flow.records()
    whole = cut_video(
        "v",
        FrameEmbeddings(
            epochs=np.array([one.epoch for one in frames], np.int32),
            pts_seconds=np.array([one.pts_seconds for one in frames]),
            vectors=np.stack([vector_of(one) for one in frames]),
        ),
        [],
        np.zeros((0, 0), np.float32),
        duration_seconds=seconds,
        config=WindowConfig(),
        pooling=MeanPooling(),
    )
    final = [record for record in records if record.is_final]
    for record, cut in zip(final, whole, strict=True):
        assert record.segment.segment_id == cut.segment.segment_id
        assert record.segment.span == cut.segment.span
        assert record.segment.vector is not None
        assert np.array_equal(record.segment.vector, cut.segment.vector)
    assert [jpeg for record in final for jpeg in record.thumbnails] == [one.thumbnail for one in frames]
    assert [record.is_last for record in final] == [False] * (len(final) - 1) + [True]


def test_a_piece_holds_the_pictures_and_sound_of_one_epoch_in_order() -> None:
    sound = AudioBlock(epoch=0, start_seconds=0.0, samples=np.zeros(16000, np.float32))
    later = AudioBlock(epoch=1, start_seconds=1.5, samples=np.zeros(16000, np.float32))
    items = [MEDIA, sound, frame(0.0), frame(1.0), later, frame(2.0, 1), summary(3.0)]
    first, second = pieces_of(items)
    assert (first.epoch, first.sounds, [one.pts_seconds for one in first.frames]) == (0, (sound,), [0.0, 1.0])
    assert (first.start_seconds, first.end_seconds, first.opens_epoch) == (0.0, 1.5, True)
    assert (second.epoch, second.sounds, [one.pts_seconds for one in second.frames]) == (1, (later,), [2.0])
    assert (second.epoch_start_seconds, second.end_seconds, second.whole_seconds) == (1.5, 3.0, 3.0)
    assert second.opens_epoch


def test_sound_without_pictures_is_one_piece_up_to_the_end() -> None:
    blocks = [AudioBlock(epoch=0, start_seconds=float(n), samples=np.zeros(16000, np.float32)) for n in range(3)]
    [piece] = pieces_of([SONG, *blocks, summary(3.25)])
    assert (len(piece.sounds), piece.end_seconds, piece.whole_seconds) == (3, 3.25, 3.25)
