"""Mixing to mono: nothing cancels out, and normal stereo is the mean of its channels."""

import io
from collections.abc import Callable

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from ingest.config import DecodeConfig
from ingest.media.channels import Downmix
from ingest.media.decode import decode
from ingest.sandbox.pool import DecodePool
from ingest.values import SAMPLE_RATE_HZ, AudioBlock

Channels = tuple[NDArray[np.float32], NDArray[np.float32]]
SECONDS = 20
NOISE = 0.003  # of a microphone, independent in each channel


def voice(seed: int = 0, seconds: float = SECONDS) -> NDArray[np.float32]:
    """Return sound with the ups and downs of speech: bursts of a tone with overtones, and pauses."""
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    rng = np.random.default_rng(seed)
    loudness = np.interp(t, np.arange(0, seconds + 1, 0.25), rng.choice([0, 0.2, 1], size=4 * int(seconds) + 4))
    return (0.3 * loudness * np.sin(2 * np.pi * (140 + 20 * seed) * t)).astype(np.float32)


def hum(seed: int) -> NDArray[np.float32]:
    return (NOISE * np.random.default_rng(seed).standard_normal(SECONDS * SAMPLE_RATE_HZ)).astype(np.float32)


def mix(left: NDArray[np.float32], right: NDArray[np.float32], block_seconds: float = 5) -> NDArray[np.float32]:
    downmix, stereo = Downmix(), np.stack([left, right])
    step = round(block_seconds * SAMPLE_RATE_HZ)
    parts = [downmix.mix(stereo[:, i : i + step]) for i in range(0, stereo.shape[1], step)]
    return np.concatenate(parts)


def energy(samples: NDArray[np.float32]) -> float:
    return float(np.sum(np.square(samples, dtype=np.float64)))


def likeness(heard: NDArray[np.float32], spoken: NDArray[np.float32]) -> float:
    """Return the share of the spoken sound's energy that the mono mix keeps; 1.0 is all of it."""
    return energy(heard) / energy(spoken)


def wrong_phase() -> Channels:
    return voice() + hum(1), -voice() + hum(2)


def mostly_wrong_phase() -> Channels:
    return voice() + hum(1), -0.7 * voice() + hum(2)


def wrong_phase_from_the_middle() -> Channels:
    turn = np.where(np.arange(SECONDS * SAMPLE_RATE_HZ) < 10.3 * SAMPLE_RATE_HZ, 1, -1).astype(np.float32)
    return voice() + hum(1), turn * voice() + hum(2)


def wrong_phase_with_music() -> Channels:
    return voice() + voice(5) / 5, voice(5) / 5 - voice()


@pytest.mark.parametrize("block_seconds", [5, 2.03, 0.25])
@pytest.mark.parametrize("make", [wrong_phase, mostly_wrong_phase, wrong_phase_from_the_middle, wrong_phase_with_music])
def test_what_cancels_out_is_heard_from_one_channel(make: Callable[[], Channels], block_seconds: float) -> None:
    heard = mix(*make(), block_seconds)
    assert 0.9 < likeness(heard, voice()) < 1.2
    spoken = np.abs(voice()).reshape(-1, SAMPLE_RATE_HZ).max(axis=1)
    loudest = np.abs(heard).reshape(-1, SAMPLE_RATE_HZ).max(axis=1)
    assert all(loudest[spoken > 0.1] > 0.8 * spoken[spoken > 0.1])  # in each second


def test_normal_stereo_is_the_mean_of_its_channels() -> None:
    one, other, silence = voice(1), voice(2), np.zeros(SECONDS * SAMPLE_RATE_HZ, dtype=np.float32)
    for left, right in [
        (one, one),
        (one, 0.3 * one + hum(1)),
        (one, other),  # two languages, one a side
        (one, silence),
        (one + 0.3 * other, 0.3 * one + other),
        (hum(1), hum(2)),
        (0.01 * hum(1), -0.01 * hum(1)),  # below anything to be heard
    ]:
        assert np.array_equal(mix(left, right), (left + right) / 2)


def test_a_change_makes_no_click() -> None:
    heard = mix(*wrong_phase_from_the_middle())
    assert np.abs(np.diff(heard)).max() < 1.3 * np.abs(np.diff(voice())).max() + 8 * NOISE


def test_the_louder_channel_is_heard_and_the_choice_is_stable() -> None:
    heard = mix(0.5 * voice() + hum(1), -voice() + hum(2))
    assert likeness(heard, voice()) == pytest.approx(1, abs=0.1)
    equal = mix(*wrong_phase())
    assert float(np.dot(equal, voice())) / energy(voice()) == pytest.approx(1, abs=0.1)  # one channel throughout


@pytest.mark.parametrize("layout", ["stereo", "5.1"])
def test_fronts_of_a_file_that_cancel_out_are_heard(layout: str) -> None:
    samples = np.zeros((av.AudioLayout(layout).nb_channels, SECONDS * SAMPLE_RATE_HZ), dtype=np.float32)
    samples[0], samples[1] = voice(), -voice()
    frame = AudioFrame.from_ndarray((samples * 32767).astype(np.int16).T.reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate = SAMPLE_RATE_HZ
    media = io.BytesIO()
    with av.open(media, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout=layout)
        container.mux(stream.encode(frame))
    items = decode(media, uri="test", config=DecodeConfig())
    heard = np.concatenate([item.samples for item in items if isinstance(item, AudioBlock)])
    assert likeness(heard, voice()) > (0.9 if layout == "stereo" else 0.1)  # a front has 0.36 of the mix of 5.1


def test_channels_in_an_order_of_their_own_end_no_process() -> None:
    samples = np.zeros((8, 2 * SAMPLE_RATE_HZ), dtype=np.float32)
    samples[2] = voice(seconds=2)  # the centre
    frame = AudioFrame.from_ndarray((samples * 32767).astype(np.int16).T.reshape(1, -1), format="s16", layout="7.1")
    frame.sample_rate = SAMPLE_RATE_HZ
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="7.1")
        container.mux(stream.encode(frame))
    # The order of the channels becomes that of "MPEG 7.1 C", with the sides before the back.
    media = file.getvalue().replace(bytes.fromhex("000100000000063f"), bytes.fromhex("0080000800000000"))
    with DecodePool(DecodeConfig(), workers=1) as pool:
        items = list(pool.decode(io.BytesIO(media), uri="test"))
    heard = np.concatenate([item.samples for item in items if isinstance(item, AudioBlock)])
    assert 0.1 < likeness(heard, voice(seconds=2)) < 0.5  # the centre has half of the mix
