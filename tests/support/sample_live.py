"""Segments of live videos as Kafka brings them, made of a few numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from encoders.values import Box, FrameEmbeddings, TextLine, Utterance, Word
from serve.catalog.catalog import Catalog
from serve.codec.records import Gap, SegmentRecord
from serve.search.library import Library
from support.fakes import COLOURS, ColourEncoder, WordSumEncoder
from support.sample_catalog import FINGERPRINT, MEDIA, WIDTH, unit
from temporal.values import Segment, TimeSpan

STRIDE, LENGTH = 8, 16  # seconds, as temporal.window cuts
LIVE_MEDIA = replace(MEDIA, duration_seconds=None)  # a stream has no duration
STARTED = 1_700_000_000.0  # when the streams began, by all clocks


def make_utterance(text: str, start_seconds: float, epoch: int = 0) -> Utterance:
    words = tuple(
        Word(text=word, start_seconds=start_seconds + 0.25 * n, end_seconds=start_seconds + 0.25 * n + 0.125,
             probability=0.5)
        for n, word in enumerate(text.split())
    )  # fmt: skip
    return Utterance(
        epoch=epoch, start_seconds=start_seconds, end_seconds=start_seconds + 1.5, text=text, words=words,
        language="en", avg_logprob=-0.25, no_speech_prob=0.125,
    )  # fmt: skip


def write_line(text: str, start_seconds: float, end_seconds: float, epoch: int = 0) -> TextLine:
    box = Box(left=0.125, top=0.25, right=0.5, bottom=0.375)
    return TextLine(
        epoch=epoch, start_seconds=start_seconds, end_seconds=end_seconds, text=text, box=box, confidence=0.875
    )


def vector_at(video_id: str, seconds: float, width: int = WIDTH) -> NDArray[np.float32]:
    """Return the vector of the picture at a second of a stream: always the same one."""
    seed = (sum(video_id.encode()), int(seconds))
    vector = np.random.default_rng(seed).standard_normal(width).astype(np.float32)
    return unit(vector).astype(np.float16).astype(np.float32)


def live_segment(
    index: int,
    *,
    video_id: str = "cam",
    collection: str = "default",
    epoch: int = 0,
    epoch_start: float = 0.0,
    known_seconds: float | None = None,
    texts: Sequence[str] | None = None,
    is_final: bool = True,
    is_last: bool = False,
    gaps: Sequence[Gap] = (),
    watermark_seconds: float | None = None,
    recorded_from: float | None = STARTED,
    appended: float | None = None,
    fingerprint: str = FINGERPRINT,
    width: int = WIDTH,
    uri: str = "",
    written: str = "",
) -> SegmentRecord:
    """Make a segment of a stream with a picture a second and an utterance at second 1 of each stride.

    Args:
        known_seconds: Where the epoch ends as far as is known, from its start; None: beyond the segment.
        texts: Of the utterances, one in each stride; None: two utterances whose words name their second.
        recorded_from: The wall clock at media time 0.
        written: A line of text that stands in the pictures from the segment's new part on; empty: none.
        appended: Append time of the oldest record; None: the time when it was recorded.
    """
    start = epoch_start + STRIDE * index
    end = start + LENGTH if known_seconds is None else min(start + LENGTH, epoch_start + known_seconds)
    seconds = np.arange(start, end)
    pictures = [vector_at(video_id, second, width) for second in seconds]
    strides = [at for at in (start, start + STRIDE) if at + 3 <= end]
    utterances = [
        make_utterance(f"second {int(at)} of {video_id}" if texts is None else text, at + 1, epoch)
        for at, text in zip(strides, texts if texts is not None else strides, strict=False)
    ]
    new_from = start if index == 0 else start + STRIDE
    new_count = int((seconds >= new_from).sum())
    continued = sum(one.start_seconds < new_from for one in utterances)
    lines = [write_line(written, new_from, end, epoch)] if written and new_from < end else []
    sentences = [vector_at(video_id, 1e6 + one.start_seconds, width) for one in utterances]
    return SegmentRecord(
        segment=Segment(
            segment_id=f"{video_id}/{epoch}/{index}", epoch=epoch, index=index,
            span=TimeSpan(start_seconds=start, end_seconds=end),
            vector=unit(np.mean(pictures, axis=0)) if pictures else None,
        ),
        collection=collection,
        video_id=video_id,
        revision=len(seconds) + len(utterances) + is_final,
        is_final=is_final,
        frames=FrameEmbeddings(
            epochs=np.full(len(seconds), epoch, np.int32),
            pts_seconds=seconds,
            vectors=np.array(pictures, np.float32).reshape(len(pictures), width),
        ),
        thumbnails=tuple(b"jpeg of %d" % second for second in seconds[len(seconds) - new_count :]),
        utterances=tuple(utterances),
        utterance_vectors=np.array(sentences, np.float32).reshape(len(sentences), width),
        continued_count=continued,
        lines=tuple(lines),
        line_vectors=np.array([vector_at(one.text, 0, width) for one in lines], np.float32).reshape(len(lines), width),
        fingerprint=fingerprint,
        watermark_seconds=(end if is_final else start) if watermark_seconds is None else watermark_seconds,
        source_append_time=STARTED + start if appended is None else appended,
        newest_append_time=STARTED + end if appended is None else appended + end - start,
        recorded_time=None if recorded_from is None else recorded_from + start,
        gaps=tuple(gaps),
        uri=uri,
        media=LIVE_MEDIA,
        is_last=is_last,
    )  # fmt: skip


def camera(
    library: Library,
    index: int,
    *,
    colour: str = "blue",
    seen: Mapping[int, str] | None = None,
    heard: Mapping[int, str] | None = None,
    video_id: str = "cam",
    is_final: bool = True,
    known_seconds: float | None = None,
    is_last: bool = False,
    written: Mapping[int, str] | None = None,
) -> SegmentRecord:
    """Make a segment of a stream that shows one colour, but for some seconds, in which sentences are said.

    Args:
        written: Lines of text by the index of the segment in whose new part they stand.
    """
    plain = live_segment(
        index, video_id=video_id, is_final=is_final, is_last=is_last, known_seconds=known_seconds, texts=(), width=4,
        written=(written or {}).get(index, ""),
        fingerprint=library.engine.fingerprint,
    )  # fmt: skip
    times = plain.frames.pts_seconds
    pixels = [np.full((1, 1, 3), np.array(COLOURS[(seen or {}).get(int(at), colour)]) * 255) for at in times]
    vectors = ColourEncoder().encode_frames(np.array(pixels))
    span = plain.segment.span
    spoken = [make_utterance(text, at) for at, text in sorted((heard or {}).items())
              if at < span.end_seconds and at + 1.5 > span.start_seconds and is_final]  # fmt: skip
    new_from = span.start_seconds + (8 if index else 0)
    return replace(
        plain,
        segment=replace(plain.segment, vector=unit(vectors.mean(axis=0)[None])[0]),
        frames=replace(plain.frames, vectors=vectors),
        utterances=tuple(spoken),
        utterance_vectors=WordSumEncoder().encode([one.text for one in spoken]),
        continued_count=sum(one.start_seconds < new_from for one in spoken),
        line_vectors=WordSumEncoder().encode([one.text for one in plain.lines]),
        revision=len(times) + len(spoken) + is_final,
    )


def rows_of(catalog: Catalog) -> list[tuple[object, ...]]:
    """Return all that a catalog says of its videos but the catalog's own keys and when it was written."""
    return [
        (video.collection, video.video_id, video.duration_seconds, video.frame_count, video.watermark_seconds,
         catalog.frames(video.row).vectors.tobytes(), catalog.utterances(video.row),
         [(one.segment_id, one.span) for one in catalog.segments(video.row)])
        for video in catalog.videos()
    ]  # fmt: skip
