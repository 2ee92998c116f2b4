"""serve.codec.records: what is written is what is read, and what is none of it is refused."""

import dataclasses

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from encoders.values import FrameEmbeddings, Utterance, Word, WordSource
from ingest.values import Chunk, MediaInfo
from kinodex.v1 import stream_pb2
from serve.codec.fields import duration_message, span_message
from serve.codec.records import (
    Gap,
    SegmentRecord,
    Source,
    chunk_bytes,
    deletion_bytes,
    read_chunk,
    read_deletion,
    read_segment,
    read_source,
    segment_bytes,
    source_bytes,
)
from serve.errors import RecordInvalid
from support.sample_live import write_line
from temporal.values import Segment, TimeSpan

CHUNK = Chunk(
    collection="cams", stream_id="door", session=17, sequence=3, media=b"media", media_type="video/mp2t", start_time=9.5
)


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


def record() -> SegmentRecord:
    words = (Word(text="Hello", start_seconds=9.0, end_seconds=9.4, probability=0.75),)
    said = Utterance(
        epoch=1, start_seconds=9.0, end_seconds=9.4, text="Hello", words=words, language="en", avg_logprob=-0.25,
        no_speech_prob=0.125, source=WordSource.TRACK,
    )  # fmt: skip
    return SegmentRecord(
        segment=Segment(
            segment_id="door/1/2", epoch=1, index=2, span=TimeSpan(start_seconds=8.25, end_seconds=24.25),
            vector=unit(1, 2),
        ),
        collection="cams",
        video_id="door",
        revision=4,
        is_final=True,
        frames=FrameEmbeddings(
            epochs=np.array([1, 1], np.int32), pts_seconds=np.array([9.04, 20.0]), vectors=np.stack([unit(3, 4)] * 2)
        ),
        thumbnails=(b"jpeg",),
        utterances=(said,),
        utterance_vectors=unit(4, 3)[None],
        continued_count=1,
        fingerprint="f",
        watermark_seconds=24.25,
        source_append_time=1000.5,
        newest_append_time=1024.5,
        recorded_time=900.0,
        gaps=(Gap(at_seconds=10.0, first_sequence=5, chunk_count=2, reason="MISSING"),),
        uri="https://example.org/a.mp4",
        metadata={"place": "door"},
        media=MediaInfo(
            container="mpegts", duration_seconds=None, video_codec="h264", audio_codec=None, width=640, height=360,
            rotation_degrees=90, frame_rate_fps=25.0,
        ),
        is_last=True,
        warnings=("its sound is silent",),
        lines=(write_line("Way out", 16.25, 24.0, epoch=1),),
        line_vectors=unit(1, 2)[None],
    )  # fmt: skip


def same(one: object, other: object, precision: float) -> None:
    """Compare field by field: arrays within float16's precision, all else exactly."""
    if isinstance(one, np.ndarray):
        np.testing.assert_allclose(one, other, atol=precision)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            same(getattr(one, field.name), getattr(other, field.name), precision)
    else:
        assert one == other


def test_a_segment_is_read_as_it_was_written() -> None:
    written = record()
    same(read_segment(segment_bytes(written)), written, 1e-3)


def test_a_segment_without_pictures_words_or_clock_is_read_as_it_was_written() -> None:
    empty = FrameEmbeddings(epochs=np.zeros(0, np.int32), pts_seconds=np.zeros(0), vectors=np.zeros((0, 0), np.float32))
    written = dataclasses.replace(
        record(), frames=empty, thumbnails=(), utterances=(), utterance_vectors=np.zeros((0, 0), np.float32),
        continued_count=0, lines=(), line_vectors=np.zeros((0, 0), np.float32), recorded_time=None,
        segment=dataclasses.replace(record().segment, vector=None),
    )  # fmt: skip
    same(read_segment(segment_bytes(written)), written, 0.0)


@pytest.mark.parametrize(
    "chunk",
    [
        CHUNK,
        dataclasses.replace(CHUNK, media=b"", uri="https://example.org/3.ts", start_time=None),
        dataclasses.replace(CHUNK, media=b"", end_of_stream=True),
    ],
)
def test_a_chunk_is_read_as_it_was_written(chunk: Chunk) -> None:
    assert read_chunk(chunk_bytes(chunk)) == chunk


def test_sources_and_deletions_are_read_as_they_were_written() -> None:
    source = Source(collection="c", video_id="v", uri="https://a/b.mp4", metadata={"k": "v"}, recorded_time=3.25)
    assert read_source(source_bytes(source)) == source
    assert read_deletion(deletion_bytes("c", "v")) == ("c", "v")


CENTURIES = 500 * 365.25 * 24 * 3600.0
END_OF_TIME = Timestamp(seconds=253_402_300_799)  # the year 9999


@pytest.mark.parametrize(
    "poison",
    [
        stream_pb2.Segment(start_time=END_OF_TIME),
        stream_pb2.Segment(start_time=Timestamp(seconds=-62_135_596_800)),
        stream_pb2.Segment(span=span_message(0.0, CENTURIES)),
        stream_pb2.Segment(watermark_offset=duration_message(CENTURIES)),
        stream_pb2.Segment(frames=[stream_pb2.FrameEmbedding(offset=duration_message(CENTURIES))]),
        stream_pb2.Segment(texts=[stream_pb2.SpokenText(span=span_message(0.0, CENTURIES))]),
        stream_pb2.Segment(gaps=[stream_pb2.Gap(offset=duration_message(CENTURIES))]),
    ],
    ids=lambda poison: next(iter(poison.ListFields()))[0].name,
)
def test_a_segment_whose_times_add_up_to_no_timestamp_is_refused(poison: stream_pb2.Segment) -> None:
    message = stream_pb2.Segment.FromString(segment_bytes(record()))
    message.MergeFrom(poison)
    with pytest.raises(RecordInvalid, match=r"100 years|1000 years"):
        read_segment(message.SerializeToString())


@pytest.mark.parametrize("seconds", [253_402_300_799, -62_135_596_800])
def test_a_file_recorded_at_the_end_of_time_is_refused(seconds: int) -> None:
    message = stream_pb2.Source(collection="c", video_id="v", uri="https://a/b.mp4")
    message.start_time.seconds = seconds
    with pytest.raises(RecordInvalid, match="within 1000 years of 1970"):
        read_source(message.SerializeToString())


@pytest.mark.parametrize("read", [read_chunk, read_source, read_segment])
@pytest.mark.parametrize("data", [b"", b"\xff" * 20, b"\x00", b"not a message at all", segment_bytes(record())[:-3]])
def test_what_is_no_such_record_is_refused(read: object, data: bytes) -> None:
    with pytest.raises(RecordInvalid):
        read(data)  # type: ignore[operator]
