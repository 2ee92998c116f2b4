"""serve.worker.whole_file: a file in pieces ends in the segments of the whole file; one that fails leaves nothing."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from encoders.values import FrameEmbeddings
from ingest.errors import DecodeError
from ingest.kafka import Record
from ingest.stream.stream_clock import EpochPart
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, Decoded, DecodeSummary, Frame
from serve.codec.records import Source, source_bytes
from serve.video_warnings import FileFacts
from serve.worker.partitions import SourcePartition
from serve.worker.video_flow import VideoFlow
from serve.worker.whole_file import MAX_PIECES, PIECE_FRAMES, FileCancelled, FileCutter, FileWork
from support.waiting import HANG_SECONDS
from support.worker_fakes import MEDIA, PIXELS, FakeEffects, LoudnessTranscriber
from temporal.config import WindowConfig
from temporal.fusion.fusion import MeanPooling
from temporal.window import cut_video

FILM = replace(MEDIA, audio_codec=None)
SONG = replace(MEDIA, video_codec=None)


class NamedTranscriber(LoudnessTranscriber):
    name, is_multilingual, language, translates = "loud", True, None, False


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


# ------------------------------------------------------------------ a file in a worker
SOURCE = Source(collection="films", video_id="film", uri="file:///film.mp4", recorded_time=1e9)
RECORD = Record("sources", 0, 7, 1000.0, b"k", source_bytes(SOURCE))


def film_frames(count: int) -> list[Frame]:
    return [frame(float(n)) for n in range(count)]


def start_file(effects: FakeEffects) -> tuple[SourcePartition, FileWork]:
    """Take a record, and open the file as its decoding thread does."""
    partition = SourcePartition(effects, "sources", 0, RECORD.offset)
    partition.take(RECORD)
    [(work, _)] = effects.files
    work.flow = VideoFlow(
        "films", "film", transcriber=None, window=WindowConfig(), pooling=MeanPooling(), fingerprint="f",
        uri=SOURCE.uri,
    )  # fmt: skip
    return partition, work


FAULTS = ("its pictures (h264) are missing or damaged: only its sound is indexed", "its sound is silent")
SILENCE = AudioBlock(epoch=0, start_seconds=0.0, samples=np.zeros(40 * SAMPLE_RATE_HZ, np.float32))


def put(work: FileWork, effects: FakeEffects, items: list[Decoded]) -> None:
    """Hand over pieces as the decoding thread does, and do the work that follows."""
    [(_, on_change)] = effects.files
    for piece in pieces_of(items):
        work.put(piece)
        on_change()
        effects.finish_all()


def commit(partition: SourcePartition, effects: FakeEffects) -> int | None:
    partition.step_commit(may_begin=True)
    effects.acknowledge()
    return partition.step_commit(may_begin=False)


def test_a_file_becomes_final_segments_and_is_committed_when_the_broker_has_them() -> None:
    effects = FakeEffects()
    partition, work = start_file(effects)
    put(work, effects, [FILM, *film_frames(40), summary(40.0)])
    assert commit(partition, effects) is None
    work.put(None)
    effects.files[0][1]()
    final = {one.segment.segment_id: one for one in effects.segments if one.is_final}
    assert list(final) == [f"film/0/{n}" for n in range(4)]
    assert [one.is_last for one in final.values()] == [False, False, False, True]
    assert final["film/0/1"].recorded_time == pytest.approx(1e9 + 8.0)
    assert {one.uri for one in final.values()} == {SOURCE.uri}
    assert commit(partition, effects) == RECORD.offset + 1


def test_the_faults_of_a_file_come_with_its_last_segment_and_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    effects = FakeEffects()
    partition, work = start_file(effects)
    facts = FileFacts()
    work.flow = VideoFlow(
        "films", "film", transcriber=NamedTranscriber(), window=WindowConfig(), pooling=MeanPooling(), fingerprint="f",
        uri=SOURCE.uri, facts=facts,
    )  # fmt: skip
    items = [MEDIA, SILENCE, summary(40.0)]
    for item in items:
        facts.take(item)
    put(work, effects, items)
    work.put(None)
    effects.files[0][1]()
    effects.finish_all()
    assert {one.warnings for one in effects.segments if not (one.is_last and one.is_final)} <= {()}
    assert effects.segments[-1].warnings == FAULTS
    assert commit(partition, effects) == RECORD.offset + 1
    assert f"file has faults uri={SOURCE.uri} warnings={'; '.join(FAULTS)}" in caplog.text


def test_a_file_that_fails_half_way_leaves_nothing() -> None:
    effects = FakeEffects()
    partition, work = start_file(effects)
    put(work, effects, [FILM, *film_frames(40), summary(40.0)])
    published = {delivery.key for delivery in effects.deliveries_to("segments")}
    assert len(published) > 1
    work.failure = DecodeError(SOURCE.uri, "noise")
    effects.files[0][1]()
    left = {delivery.key: delivery.value for delivery in effects.deliveries_to("segments")}
    assert left == dict.fromkeys(published)
    assert len(effects.deliveries_to("deadletter")) == 1
    assert commit(partition, effects) == RECORD.offset + 1


def test_decoding_waits_while_enough_pieces_are_under_way() -> None:
    effects = FakeEffects()
    partition, work = start_file(effects)
    pieces = pieces_of([FILM, *film_frames(6 * PIECE_FRAMES), summary(6.0 * PIECE_FRAMES)])
    for piece in pieces[:MAX_PIECES]:
        work.put(piece)
    is_put = threading.Event()

    def put_one_more() -> None:
        work.put(pieces[MAX_PIECES])
        is_put.set()

    thread = threading.Thread(target=put_one_more)
    thread.start()
    effects.files[0][1]()
    partition.step_commit(may_begin=False)
    assert not is_put.is_set()  # nothing is encoded
    effects.encoding.pop(0)()
    assert is_put.wait(HANG_SECONDS)
    thread.join()


def test_a_file_that_is_given_up_ends_its_decoding() -> None:
    effects = FakeEffects()
    partition, work = start_file(effects)
    partition.give_up()
    with pytest.raises(FileCancelled):
        work.put(None)
    effects.files[0][1]()
    assert effects.deliveries == []
