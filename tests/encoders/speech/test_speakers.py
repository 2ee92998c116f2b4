"""Speakers told apart: by vectors made by hand, and by the real voice encoder on real recordings."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from encoders.config import SpeechConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.speech import speakers, voices
from encoders.speech.speakers import tell_apart
from encoders.speech.speech_stream import SpeechStream, SpeechWindow
from encoders.speech.voices import HOP_SAMPLES, PART_FRAMES, VoiceEncoder, VoiceNet, cut_parts, load_voices
from encoders.values import Utterance
from ingest.values import SAMPLE_RATE_HZ
from support.speech import read_sound


def said_by(*people: int, noise: float = 0.3) -> NDArray[np.float32]:
    """Return a voice for each utterance, near the direction of its person; 0 is silence."""
    rng = np.random.default_rng(0)
    directions = np.eye(64)
    rows = [directions[person] + noise * rng.standard_normal(64) / 8 if person else np.zeros(64) for person in people]
    vectors = np.array(rows, np.float32).reshape(-1, 64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


@pytest.mark.parametrize(
    ("people", "numbers"),
    [
        ((), []),
        ((5,), [1]),
        ((5, 5, 5), [1, 1, 1]),
        ((7, 2, 7, 9, 2), [1, 2, 1, 3, 2]),  # in the order of first words
        ((0, 7, 0, 2), [0, 1, 0, 2]),  # nobody is heard
        ((0, 0), [0, 0]),
    ],
)
def test_numbers_the_speakers_in_the_order_of_first_words(people: tuple[int, ...], numbers: list[int]) -> None:
    assert tell_apart(said_by(*people), [4.0] * len(people)) == numbers


def test_short_words_found_no_speaker() -> None:
    assert tell_apart(said_by(1, 2, 3, 1), [4.0, 4.0, 0.4, 0.4])[3] == 1
    assert set(tell_apart(said_by(1, 2, 3, 1), [4.0, 4.0, 0.4, 0.4])) == {1, 2}
    assert tell_apart(said_by(1, 2), [0.4, 0.4]) == [1, 2]  # nobody says more


def test_a_long_video_is_grouped_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    people = [1, 2, 3] * 20
    whole = tell_apart(said_by(*people), [4.0] * 60)
    monkeypatch.setattr(speakers, "MAX_AT_ONCE", 7)
    assert tell_apart(said_by(*people), [4.0] * 60) == whole == [1, 2, 3] * 20


def test_cuts_an_utterance_into_parts() -> None:
    def lengths(frames: int) -> list[int]:
        return [len(part) for part in cut_parts(torch.zeros(frames, 40))]

    assert lengths(1) == [1]
    assert lengths(PART_FRAMES) == [PART_FRAMES]
    assert lengths(2 * PART_FRAMES) == [PART_FRAMES] * 3


def window(samples: NDArray[np.float32]) -> SpeechWindow:
    speech = np.array([[10.0, 10.0 + len(samples) / SAMPLE_RATE_HZ]])
    return SpeechWindow(
        epoch=0, run_start_seconds=10.0, start_seconds=10.0, samples=samples, speech=speech,
        stream=SpeechStream(SpeechConfig()),
    )  # fmt: skip


def utterance(start: float, end: float) -> Utterance:
    return Utterance(
        epoch=0, start_seconds=start, end_seconds=end, text="x", words=(), language="en", avg_logprob=0.0,
        no_speech_prob=0.0,
    )  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save({"model_state": VoiceNet().state_dict(), "step": 1}, tmp_path / "voices.pt")
    return tmp_path / "voices.pt"


def test_embeds_each_utterance_of_a_window(weights: Path) -> None:
    encoder = VoiceEncoder(weights)
    sound = np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE_HZ).astype(np.float32) / 10
    spans = [(10.0, 10.01), (10.5, 14.9), (14.9, 15.0), (15.0, 15.0), (14.0, 99.0), (3.0, 4.0)]
    vectors = encoder.encode(window(sound), [utterance(*span) for span in spans])
    assert (vectors.shape, vectors.dtype) == ((6, voices.WIDTH), np.float32)
    assert np.isfinite(vectors).all()
    alone = encoder.encode(window(sound), [utterance(10.5, 14.9)])
    assert alone[0] == pytest.approx(vectors[1], abs=1e-5)
    assert encoder.encode(window(sound), []).shape == (0, voices.WIDTH)
    silent = encoder.encode(window(np.zeros(SAMPLE_RATE_HZ, np.float32)), [utterance(10.0, 11.0)])
    assert np.isfinite(silent).all()
    one = encoder.encode(window(np.zeros(HOP_SAMPLES, np.float32)), [utterance(10.0, 10.01)])
    assert np.isfinite(one).all()


def test_quiet_sound_has_the_voice_of_loud_sound(weights: Path) -> None:
    encoder = VoiceEncoder(weights)
    sound = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE_HZ).astype(np.float32) / 100
    loud, quiet = (encoder.encode(window(factor * sound), [utterance(10.0, 12.0)]) for factor in (1.0, 0.01))
    assert quiet == pytest.approx(loud, abs=1e-3)


def test_weights_that_are_none_are_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights.read_bytes()
    for damaged in (b"", b"not weights", whole[: len(whole) // 2]):
        weights.write_bytes(damaged)
        with pytest.raises(WeightsInvalid, match=r"voices\.pt"):
            VoiceEncoder(weights)
    torch.save({"model_state": {"lstm": torch.zeros(1)}}, weights)
    with pytest.raises(WeightsInvalid):
        VoiceEncoder(weights)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    load_voices.cache_clear()
    with pytest.raises(WeightsNotFound, match=r"kinodex\[speakers\]"):
        load_voices()
    load_voices.cache_clear()


@pytest.mark.slow
def test_recordings_of_one_speaker_are_near_and_of_two_apart(shared: Path) -> None:
    if importlib.util.find_spec(voices.PACKAGE) is None:
        pytest.skip("resemblyzer is not installed: pip install 'kinodex[speakers]'")
    load_voices.cache_clear()
    encoder = load_voices()

    def voice(name: str) -> NDArray[np.float32]:
        sound = read_sound(shared / "videos" / "speech" / name)
        return encoder.encode(window(sound), [utterance(10.0, 10.0 + len(sound) / SAMPLE_RATE_HZ)])[0]

    one, same = voice("speechbrain__spk1_snt1.wav"), voice("speechbrain__spk1_snt3.wav")
    other, third = voice("speechbrain__LJ050-0131.wav"), voice("whisper__jfk.flac")
    assert float(one @ same) > speakers.SAME_VOICE + 0.1
    assert max(float(one @ other), float(one @ third), float(other @ third)) < speakers.SAME_VOICE
