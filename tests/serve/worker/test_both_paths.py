"""A file has the same segments over Kafka as in `kinodex index`, however its pictures and sound lie in it."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from encoders.values import FrameEmbeddings
from ingest.config import DecodeConfig
from ingest.media.decode import decode
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame
from serve.video_warnings import FileFacts
from serve.worker.video_flow import TrackedSpeech, VideoFlow
from serve.worker.whole_file import FileCutter
from support.media import Sound, Track, encode_media, times
from support.worker_fakes import LoudnessTranscriber, words_of
from temporal.config import WindowConfig
from temporal.fusion.fusion import MeanPooling
from temporal.window import CutSegment, cut_video

SMALL: dict[str, Any] = {"width": 64, "height": 48, "gop": 24, "options": {"bf": "0", "preset": "ultrafast"}}
HEARD = {"codec": "mp2", "rate_hz": 16_000}


def film(seconds: int, *, format: str = "matroska", late_picture: int = 0, late_sound: int = 0) -> bytes:
    track = Track(times=times(4 * seconds, 4, late_picture), **SMALL)
    sound = Sound(seconds=seconds, start_seconds=late_sound, **HEARD)
    return encode_media(format=format, video=track, sounds=[sound])


def slides(*at: int, seconds: int = 0, format: str = "matroska") -> bytes:
    sounds = [Sound(seconds=seconds, **HEARD)] if seconds else []
    return encode_media(format=format, video=Track(times=[Fraction(one) for one in at], **SMALL), sounds=sounds)


FILES: dict[str, Callable[[], bytes]] = {
    "film": lambda: film(60),
    "film without sound": lambda: encode_media(format="mp4", video=Track(times=times(400, 4), **SMALL)),
    "late picture": lambda: film(40, late_picture=25),
    "late sound": lambda: film(40, late_sound=25),
    "slides": lambda: slides(0, 90, 180, 181),
    "slides beside sound": lambda: slides(0, 40, 100, seconds=110),
    "one picture beside sound": lambda: slides(0, seconds=100),
    "sound": lambda: encode_media(format="matroska", sounds=[Sound(seconds=50, **HEARD)]),
    "silence": lambda: encode_media(format="matroska", sounds=[Sound(seconds=200, **HEARD)]),
    "one picture beside silence": lambda: slides(0, seconds=300),
    "slides beside silence": lambda: slides(0, 100, 250, seconds=300),
    "parts joined": lambda: film(30, format="mpegts") + film(20, format="mpegts") * 2,
    "parts joined of which one has no sound": lambda: (
        film(20, format="mpegts")
        + encode_media(format="mpegts", video=Track(times=times(80, 4), **SMALL))
        + film(20, format="mpegts")
    ),
}


def decoded(media: bytes) -> list[Decoded]:
    config = DecodeConfig(input_width=8, input_height=8, thumbnail_px=8)
    return list(decode(io.BytesIO(media), uri="test", config=config))


def vector_of(picture: Frame) -> np.ndarray:
    return np.array([np.cos(picture.pts_seconds), np.sin(picture.pts_seconds)], np.float32)


def index(items: Sequence[Decoded]) -> list[CutSegment]:
    """Return the segments of a file as IndexRun cuts them."""
    facts, stream, speech = FileFacts(), LoudnessTranscriber().open_stream(), []
    for item in items:
        facts.take(item)
        speech += stream.push(item) if isinstance(item, AudioBlock) else []
    spoken = [said for window in [*speech, *stream.finish()] for said in words_of(TrackedSpeech(window, (0, 0)))]
    frames = [item for item in items if isinstance(item, Frame)]
    assert facts.summary is not None
    return list(
        cut_video(
            "v",
            FrameEmbeddings(
                epochs=np.array([one.epoch for one in frames], np.int32),
                pts_seconds=np.array([one.pts_seconds for one in frames]),
                vectors=np.stack([vector_of(one) for one in frames]) if frames else np.zeros((0, 0), np.float32),
            ),
            spoken,
            np.zeros((len(spoken), 0), np.float32),
            duration_seconds=facts.summary.duration_seconds,
            config=WindowConfig(),
            pooling=MeanPooling(),
            epoch_starts=facts.epoch_starts,
        )
    )


def check_same(items: Sequence[Decoded]) -> None:
    transcriber: Any = LoudnessTranscriber()
    flow = VideoFlow(
        "c", "v", transcriber=transcriber, window=WindowConfig(), pooling=MeanPooling(), fingerprint="f", uri="file:///v",
        facts=FileFacts(),
    )  # fmt: skip
    cutter, records, held = FileCutter(), [], 0.0
    for placed in [*(piece for item in items for piece in cutter.push(item)), None]:
        if placed is None:
            submission = flow.end(is_last=True)
        else:
            held = max(held, sum(len(sound.samples) for sound in placed.sounds) / 16_000)
            submission = flow.place(placed, append_seconds=0.0, recorded_time=None)
        if submission.step.frames:
            submission.step.vectors = np.stack([vector_of(one) for one in submission.step.frames])
        for speech in submission.speech:
            words = words_of(speech)
            flow.add_words(speech, words, np.zeros((len(words), 0), np.float32))
        records += flow.records()
    final = [record for record in records if record.is_final]
    whole = index(items)
    for record, cut in zip(final, whole, strict=True):
        assert (record.segment.segment_id, record.segment.span) == (cut.segment.segment_id, cut.segment.span)
        assert record.frames.pts_seconds.tolist() == cut.frames.pts_seconds.tolist()
        assert record.utterances == tuple(one.utterance for one in cut.spoken)
        assert (record.segment.vector is None) == (cut.segment.vector is None)
        if cut.segment.vector is not None:
            assert np.allclose(record.segment.vector, cut.segment.vector, atol=1e-6)
    frame_count = sum(isinstance(item, Frame) for item in items)
    assert len([jpeg for record in final for jpeg in record.thumbnails]) == frame_count
    assert [record.is_last for record in final] == [False] * (len(final) - 1) + [True]
    assert held < 32  # seconds of sound in one piece


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_same_segments_over_kafka(name: str) -> None:
    items = decoded(FILES[name]())
    if "silence" in name:
        items = [replace(one, samples=0 * one.samples) if isinstance(one, AudioBlock) else one for one in items]
    assert isinstance(items[-1], DecodeSummary)
    assert items[-1].epoch_count == (3 if "joined" in name else 1)
    check_same(items)


@pytest.mark.slow
@pytest.mark.parametrize("late", [Frame, AudioBlock])
@pytest.mark.parametrize("seconds", [20, 60, 1000])
@pytest.mark.parametrize("name", ["film", "late picture", "slides beside sound"])
def test_pictures_and_sound_may_be_stored_far_apart(name: str, seconds: int, late: type[Frame | AudioBlock]) -> None:
    def stored(item: Decoded) -> float:
        if isinstance(item, Frame | AudioBlock):
            at = item.pts_seconds if isinstance(item, Frame) else item.start_seconds
            return at + (seconds if isinstance(item, late) else 0)
        return -1.0

    *items, summary = decoded(FILES[name]())
    check_same([*sorted(items, key=stored), summary])


def test_the_segments_of_a_late_film_begin_with_its_sound() -> None:
    first, *_ = index(decoded(FILES["late picture"]()))
    assert first.segment.span.start_seconds == 0.0
    assert first.segment.vector is None
    assert first.spoken[0].start_seconds < 2.0
