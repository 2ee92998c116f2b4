"""Of several sound tracks, the one with speech in the language that is wanted is indexed."""

from dataclasses import replace
from pathlib import Path

import pytest

from ingest.config import DecodeConfig
from serve.indexing.pipeline import index
from serve.settings import Settings
from serve.values import IndexOutcome
from support.fakes import SilentProgress, ToneTranscriber, use_fakes
from support.media import Sound, Track, times, write_media

SETTINGS = Settings(workers=1, decode=DecodeConfig())


def index_sounds(folder: Path, *sounds: Sound, settings: Settings = SETTINGS) -> IndexOutcome:
    path = folder / "film.mov"
    write_media(path, format="mov", video=Track(times=times(80, 10)), sounds=sounds)
    [outcome] = index([str(path)], folder / "data", settings, progress=SilentProgress())
    assert outcome.error is None
    return outcome


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.mark.slow
def test_a_silent_first_track_is_passed_over(tmp_path: Path) -> None:
    assert index_sounds(tmp_path, Sound(seconds=8, loudness=0), Sound(seconds=8)).utterances == 8


@pytest.mark.slow
@pytest.mark.parametrize(("is_multilingual", "utterances"), [(True, 8), (False, 6)])
def test_a_model_of_english_takes_the_english_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_multilingual: bool, utterances: int
) -> None:
    monkeypatch.setattr(ToneTranscriber, "is_multilingual", is_multilingual)
    german, english = Sound(seconds=8, tags={"language": "deu"}), Sound(seconds=6, tags={"language": "eng"})
    assert index_sounds(tmp_path, german, english).utterances == utterances


@pytest.mark.slow
def test_without_a_model_of_speech_nothing_is_heard(tmp_path: Path) -> None:
    settings = replace(SETTINGS, speech=replace(SETTINGS.speech, model="none"))
    assert index_sounds(tmp_path, Sound(seconds=8, loudness=0), Sound(seconds=8), settings=settings).utterances == 0
