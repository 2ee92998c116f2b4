"""The choice among several sound tracks: by speech, by language, by what the file says of them."""

import math
from pathlib import Path

import numpy as np
import pytest

from encoders.config import SpeechConfig
from encoders.speech.sound_choice import choose_sound, language_code
from encoders.speech.speech_stream import SpeechStream
from ingest.values import SAMPLE_RATE_HZ, SoundTrack
from support.fakes import ToneStream
from support.speech import GOLDEN, read_sound

LOUD, SILENT = 40, 0  # seconds of speech


class Listener:
    """A transcriber that takes every second that is loud for speech; music is sound of little loudness."""

    def __init__(self, *languages: str, is_multilingual: bool = True) -> None:
        self.languages, self.is_multilingual = languages, is_multilingual

    def open_stream(self) -> SpeechStream:
        return ToneStream()  # type: ignore[return-value]


def track(speech_seconds: float, language: str | None = None, rank: int = 1, music_seconds: float = 0) -> SoundTrack:
    def tone(seconds: float, loudness: float) -> list[np.ndarray]:
        return [(loudness * np.sin(np.arange(round(seconds * SAMPLE_RATE_HZ)) / 8)).astype(np.float32)]

    samples = np.concatenate(tone(speech_seconds, 0.5) + tone(music_seconds, 0.05))
    return SoundTrack(index=9, language=language, rank=rank, samples=samples)


MUSIC = track(0, music_seconds=60)
ENGLISH_ONLY = Listener(is_multilingual=False)


@pytest.mark.parametrize(
    ("listener", "tracks", "place"),
    [
        (Listener(), [track(SILENT, rank=2), track(LOUD)], 1),
        (Listener(), [MUSIC, track(LOUD)], 1),
        (Listener(), [track(LOUD, rank=2), track(1.2 * LOUD)], 0),  # both have speech: the default
        (Listener(), [track(3, rank=2, music_seconds=60), track(LOUD)], 1),
        (Listener(), [MUSIC, track(LOUD, rank=0)], 0),  # commentary over a film that begins with music
        (Listener(), [track(SILENT, rank=2), track(LOUD, rank=0)], 1),  # nothing else is to be heard
        (Listener(), [track(SILENT), track(SILENT)], 0),
        (Listener(), [track(LOUD, "ger", 2), track(LOUD, "eng")], 0),
        (Listener("en"), [track(LOUD, "ger", 2), track(LOUD, "eng")], 1),
        (Listener("en"), [track(LOUD, "ger", 2), track(4, "en-GB")], 1),
        (Listener("en"), [track(LOUD, "ger", 2), track(SILENT, "eng")], 0),
        (Listener("en"), [track(LOUD, "ger", 2), track(LOUD, "und")], 1),
        (Listener("en"), [track(LOUD, "und", 2), track(LOUD)], 0),
        (Listener("en"), [track(LOUD, "ger", 2), track(SILENT, "und"), track(LOUD, "fra")], 0),
        (Listener("de"), [track(LOUD, "eng", 2), track(LOUD, "German")], 1),
        (Listener("en"), [track(LOUD, "ger", 2), track(LOUD, "eng", 0)], 0),  # English commentary
        (Listener("fr", "de"), [track(LOUD, "eng", 2), track(LOUD, "ger")], 1),
        (ENGLISH_ONLY, [track(LOUD, "ger", 2), track(LOUD, "eng")], 1),
        (Listener("de", is_multilingual=False), [track(LOUD, "ger", 2), track(LOUD, "eng")], 1),
    ],
)
def test_the_track_with_speech_is_taken_in_the_language_that_is_wanted(
    listener: Listener, tracks: list[SoundTrack], place: int
) -> None:
    assert choose_sound(listener, tracks) == place


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("eng", "en"), ("en", "en"), ("en-US", "en"), ("en_GB", "en"), ("English", "en"), ("ger", "de"), ("deu", "de"),
        ("fre", "fr"), ("fra", "fr"), ("zh-Hant", "zh"), ("cmn", "zh"),
        ("nob", "no"), ("Castilian", "es"), ("yue", "yue"),
        ("jav", "jw"), ("und", None), ("mul", None), ("zxx", None), ("", None), (None, None), ("qaa", None),
    ],
)  # fmt: skip
def test_languages_are_known_by_each_of_their_names(name: str | None, code: str | None) -> None:
    assert language_code(name) == code


class Detector(Listener):
    def open_stream(self) -> SpeechStream:
        return SpeechStream(SpeechConfig())


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["silence", "noise", "chords"])
def test_spoken_sound_is_told_from_other_sound(noise: str) -> None:
    spoken = read_sound(Path(GOLDEN / "speech.ogg"))[: 20 * SAMPLE_RATE_HZ]
    t = np.arange(20 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    other = {
        "silence": np.zeros(0),
        "noise": 0.05 * np.random.default_rng(1).standard_normal(len(t)),
        "chords": sum(0.1 * np.sin(math.tau * hz * t) * (1 + np.sin(3 * t)) for hz in (220, 277, 330)),
    }[noise]
    tracks = [
        SoundTrack(index=n, language=None, rank=2 - n, samples=np.asarray(samples, dtype=np.float32))
        for n, samples in enumerate([other, spoken])
    ]
    assert choose_sound(Detector(), tracks) == 1
