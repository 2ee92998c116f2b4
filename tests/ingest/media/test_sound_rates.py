"""Sound whose sample rate and channels change in mid-file keeps its times."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from av.packet import Packet

from ingest.config import DecodeConfig
from ingest.media.decode import decode
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, DecodeSummary
from support.media import Sound, beep_times, encode_media

HALVES = ((48_000, "mono"), (44_100, "stereo"))
Part = tuple[int, str]  # sample rate and layout


def make(format: str, codec: str, part: Part, seconds: float = 4.0) -> bytes:
    rate_hz, layout = part
    return encode_media(format=format, sounds=[Sound(codec=codec, seconds=seconds, rate_hz=rate_hz, layout=layout)])


def run(media: bytes) -> tuple[list[float], DecodeSummary]:
    """Return the times of the beeps, and the summary."""
    items = list(decode(io.BytesIO(media), uri="sound", config=DecodeConfig()))
    summary = items[-1]
    assert isinstance(summary, DecodeSummary)
    sound = np.zeros(round((summary.duration_seconds + 1) * SAMPLE_RATE_HZ), np.float32)
    for item in items:
        if isinstance(item, AudioBlock):
            begin = round(item.start_seconds * SAMPLE_RATE_HZ)
            sound[begin : begin + len(item.samples)] = item.samples
    return beep_times(sound, SAMPLE_RATE_HZ), summary


def put_together(parts: list[bytes], format: str, samples: int, options: dict[str, str] | None = None) -> bytes:
    """Return raw sound of several rates in a container with the true times."""
    target, time = io.BytesIO(), Fraction(0)
    with av.open(target, "w", format=format, options=options or {}) as container:
        stream = None
        for part in parts:
            with av.open(io.BytesIO(part)) as source:
                stream = stream or container.add_stream_from_template(source.streams[0])
                duration = Fraction(samples, source.streams.audio[0].rate)
                for packet in (p for p in source.demux(0) if p.size):
                    copy = Packet(bytes(packet))
                    copy.stream, copy.time_base = stream, Fraction(1, 90_000)
                    copy.pts = copy.dts = round(time * 90_000)
                    copy.duration = round(duration * 90_000)
                    time += duration
                    container.mux(copy)
    return target.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "codec"), [("adts", "aac"), ("latm", "aac"), ("mp3", "libmp3lame"), ("ac3", "ac3"), ("mp2", "mp2")]
)
@pytest.mark.parametrize("parts", [HALVES, HALVES[::-1], (*HALVES, (32_000, "mono"))])
def test_parts_of_raw_sound_follow_one_another(format: str, codec: str, parts: tuple[Part, ...]) -> None:
    beeps, summary = run(b"".join(make(format, codec, part) for part in parts))
    assert beeps == pytest.approx([n + 0.5 for n in range(4 * len(parts))], abs=0.15)  # each part adds some padding
    assert summary.duration_seconds == pytest.approx(4 * len(parts), abs=0.2)
    assert summary.epoch_count == 1


@pytest.mark.parametrize("options", [{}, {"mpegts_flags": "latm"}])
def test_aac_in_a_transport_stream_may_change_its_rate(options: dict[str, str]) -> None:
    parts = [make("adts", "aac", part) for part in (*HALVES, (22_050, "mono"))]
    beeps, summary = run(put_together(parts, "mpegts", 1024, options))
    assert beeps == pytest.approx([n + 0.5 for n in range(12)], abs=0.15)
    assert summary.error_count == 0


def test_damaged_frames_of_raw_aac_keep_their_time() -> None:
    with av.open(io.BytesIO(make("adts", "aac", HALVES[0], 8.0))) as source:
        packets = [bytes(packet) for packet in source.demux(0) if packet.size]
    packets[100:200] = [packet[:9] + bytes(len(packet) - 9) for packet in packets[100:200]]
    beeps, summary = run(b"".join(packets))
    assert beeps == pytest.approx([0.5, 1.5, 4.5, 5.5, 6.5, 7.5], abs=0.05)
    assert summary.error_count == 100
    assert summary.damaged == ((pytest.approx(100 * 1024 / 48_000), pytest.approx(200 * 1024 / 48_000)),)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.01, 0.4])
@pytest.mark.parametrize("codec", ["pcm_s16le", "libmp3lame"])
def test_timestamps_that_advance_less_than_the_sound_lose_none_of_it(codec: str, share: float) -> None:
    media = io.BytesIO(encode_media(format="matroska", sounds=[Sound(codec=codec, seconds=8.0)]))
    target = io.BytesIO()
    with av.open(media) as source, av.open(target, "w", format="matroska") as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in (packet for packet in source.demux(0) if packet.size):
            assert packet.pts is not None
            packet.pts = packet.dts = round(packet.pts * share)
            packet.stream = stream
            container.mux(packet)
    beeps, summary = run(target.getvalue())
    assert beeps == pytest.approx([n + 0.5 for n in range(8)], abs=0.15)
    assert summary.duration_seconds == pytest.approx(8, abs=0.2)
