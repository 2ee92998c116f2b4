"""Of several sound tracks, the one with speech in the language that is wanted is indexed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.values import Utterance
from ingest.config import DecodeConfig
from serve.catalog.catalog import Catalog
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


class Voices:
    """Hears another speaker in every other utterance."""

    def encode(self, window: object, utterances: Sequence[Utterance]) -> NDArray[np.float32]:
        self.count = getattr(self, "count", 0) + len(utterances)
        return np.eye(2, dtype=np.float32)[[(self.count - n) % 2 for n in range(len(utterances), 0, -1)]]


@pytest.mark.slow
@pytest.mark.parametrize(("speakers", "numbers"), [(True, [1, 2, 1, 2, 1, 2, 1, 2]), (False, [0] * 8)])
def test_the_speakers_of_a_file_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speakers: bool, numbers: list[int]
) -> None:
    voices = Voices()
    monkeypatch.setattr("serve.indexing.batches.load_voices", lambda: voices)
    settings = replace(SETTINGS, speech=replace(SETTINGS.speech, speakers=speakers))
    assert index_sounds(tmp_path, Sound(seconds=8), settings=settings).utterances == 8
    with Catalog.open_reader(tmp_path / "data") as catalog:
        [video] = catalog.videos()
        assert [each.speaker for each in catalog.utterances(video.row)] == numbers


@pytest.mark.slow
def test_without_a_model_of_speech_nothing_is_heard(tmp_path: Path) -> None:
    settings = replace(SETTINGS, speech=replace(SETTINGS.speech, model="none"))
    assert index_sounds(tmp_path, Sound(seconds=8, loudness=0), Sound(seconds=8), settings=settings).utterances == 0
