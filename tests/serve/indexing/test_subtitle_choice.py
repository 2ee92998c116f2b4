"""Which subtitles are taken, and what of the speech they cover."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from encoders.speech.whisper import SpeechWindow
from encoders.values import WordSource
from ingest.values import Subtitle, SubtitleKind, SubtitleTrack
from serve.config import SubtitleUse
from serve.indexing.subtitles import FoundTrack, SpokenSubtitles, choose_track, detect_language
from support.sample_answers import utterance

TEXTS = {"en": "Where are you going tonight, my friend?", "de": "Wohin gehst du heute Nacht, mein guter Freund?"}
TRACK, SIDECAR = WordSource.TRACK, WordSource.SIDECAR


def track(
    name: str, language: str | None = None, text: str = "en", kind: SubtitleKind = "full", start_seconds: float = 1.0
) -> SubtitleTrack:
    shown = Subtitle(start_seconds, start_seconds + 2, TEXTS[text])
    return SubtitleTrack(name=name, codec="subrip", language=language, kind=kind, subtitles=(shown,))


def chosen(
    *tracks: tuple[SubtitleTrack, WordSource], wanted: tuple[str, ...] = ("en",), spoken: str | None = None
) -> str | None:
    found = choose_track(tracks, wanted=wanted, spoken=spoken, seconds=60.0)
    return None if found is None else found.track.name


def test_the_language_of_the_library_is_wanted() -> None:
    german, english = (track("de", "ger", "de"), TRACK), (track("en", "eng"), TRACK)
    assert chosen(german, english) == "en"
    assert chosen(german) is None
    assert chosen(german, english, wanted=("fr", "de")) == "de"
    assert chosen(german, english, wanted=()) == "de"
    assert chosen(german, english, wanted=(), spoken="en") == "en"


def test_a_language_that_nobody_names_is_detected() -> None:
    assert chosen((track("a", None, "de"), SIDECAR)) is None
    assert chosen((track("a", "und", "en"), SIDECAR)) == "a"
    assert detect_language([Subtitle(0.0, 1.0, "Ja.")]) is None


def test_a_whole_track_comes_before_a_forced_one_a_file_before_a_track_and_commentary_never() -> None:
    forced, whole = (track("forced", "en", kind="forced"), SIDECAR), (track("whole", "en"), TRACK)
    noisy, beside = (track("noisy", "en", kind="impaired"), TRACK), (track("beside", "en"), SIDECAR)
    default = (replace(track("default", "en"), is_default=True), TRACK)
    assert chosen(forced, whole) == "whole"
    assert chosen(noisy, whole) == "whole"
    assert chosen(whole, default) == "default"
    assert chosen(default, beside) == "beside"
    assert chosen(forced, (track("comment", "en", kind="commentary"), SIDECAR)) == "forced"
    assert chosen((track("another film", "en", start_seconds=70.0), SIDECAR)) is None
    assert chosen() is None


def window(*spans: tuple[float, float], epoch: int = 0) -> SpeechWindow:
    return SpeechWindow(
        epoch=epoch, run_start_seconds=0.0, start_seconds=spans[0][0], samples=np.zeros(16, np.float32),
        speech=np.array(spans), stream=cast("object", None),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("use", "heard", "is_enough"),
    [
        ("prefer", window((1.0, 3.0)), True),
        ("prefer", window((0.5, 3.5)), True),  # subtitles come a little before their words, and stay a little
        ("prefer", window((1.0, 3.0), (10.0, 10.2)), True),
        ("prefer", window((1.0, 3.0), (10.0, 11.0)), False),
        ("prefer", window((20.0, 21.0)), False),
        ("prefer", window((1.0, 3.0), epoch=1), False),  # nobody knows which clock subtitles follow there
        ("add", window((1.0, 3.0)), False),
    ],
)
def test_speech_that_subtitles_cover_need_not_be_heard(use: SubtitleUse, heard: SpeechWindow, is_enough: bool) -> None:
    assert SpokenSubtitles(FoundTrack(track("a", "en"), SIDECAR, "en"), use).is_enough(heard) == is_enough


def test_utterances_that_subtitles_cover_are_left_out() -> None:
    inside, outside = utterance("Where are you?", 1.5, 2.5), utterance("Something else.", 20.0, 22.0)
    jumped = replace(inside, epoch=1)
    found = FoundTrack(track("a", "en"), SIDECAR, "en")
    joined = SpokenSubtitles(found, "prefer").join([inside, outside, jumped], until_seconds=2.0)
    assert [one.text for one in joined] == [TEXTS["en"], jumped.text, outside.text]
    assert (joined[0].source, joined[0].end_seconds) == (SIDECAR, 2.0)
    assert len(SpokenSubtitles(found, "add").join([inside, outside], until_seconds=60.0)) == 3
