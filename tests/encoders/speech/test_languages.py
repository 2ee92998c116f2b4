"""The languages of speech: which are expected, which is heard in each window, and translation. Weights are random."""

from collections.abc import Sequence

import numpy as np
import pytest
from whisper.model import ModelDimensions
from whisper.tokenizer import LANGUAGES

from encoders.config import SpeechConfig
from encoders.errors import WeightsInvalid
from encoders.languages import CODES
from encoders.speech.speech_stream import SpeechWindow
from encoders.speech.whisper import Transcriber
from encoders.speech.whisper_weights import LoadedWhisper
from encoders.values import Utterance
from ingest.values import SAMPLE_RATE_HZ
from support.random_whisper import random_whisper

pytestmark = pytest.mark.slow
DIMS = ModelDimensions(
    n_mels=80, n_audio_ctx=1500, n_audio_state=16, n_audio_head=2, n_audio_layer=1, n_vocab=51865, n_text_ctx=24,
    n_text_state=16, n_text_head=2, n_text_layer=1,
)  # fmt: skip
OPEN = {"max_no_speech_prob": 1.0, "min_avg_logprob": -99.0}  # nothing that random weights say is dropped
EIGHT = ("en", "de", "ru", "ar", "he", "hi", "ja", "th")


def load(*languages: str, is_multilingual: bool = True, translate: bool = False) -> Transcriber:
    dims = DIMS if is_multilingual else ModelDimensions(**{**vars(DIMS), "n_vocab": 51864})
    loaded = LoadedWhisper(name="random", sha256="0" * 64, model=random_whisper(dims, 0.2), alignment_heads=((0, 0),))
    return Transcriber(loaded, SpeechConfig(device="cpu", languages=languages, translate=translate, **OPEN))


def hear(transcriber: Transcriber, *probabilities: dict[str, float]) -> list[list[Utterance]]:
    """Transcribe windows of one stream, of which the model finds these languages this probable."""
    found = iter(probabilities)
    transcriber._model.detect_language = lambda feature: (None, [next(found)])
    stream = transcriber.open_stream()
    sound = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE_HZ).astype(np.float32) / 10
    windows = [
        SpeechWindow(
            epoch=0, run_start_seconds=0.0, start_seconds=3.0 * n, samples=sound,
            speech=np.array([[3.0 * n, 3.0 * n + 2.0]]), stream=stream,
        )
        for n in range(len(probabilities))
    ]  # fmt: skip
    return transcriber.transcribe(windows)


def languages_of(heard: Sequence[Sequence[Utterance]]) -> list[set[str]]:
    return [{each.language for each in utterances} for utterances in heard]


def test_the_codes_are_those_of_whisper() -> None:
    assert set(LANGUAGES) == CODES


@pytest.mark.parametrize("languages", [("xx",), ("German",), ("de", "de"), ("",), ("DE",)])
def test_a_wrong_code_is_a_wrong_setting(languages: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="languages must"):
        SpeechConfig(languages=languages)


def test_each_window_is_heard_in_its_own_language() -> None:
    sure = [{language: 0.9, "fr": 0.1} for language in EIGHT]
    found = languages_of(hear(load(), *sure))
    assert found == [{language} for language in EIGHT]


def test_a_doubtful_window_has_the_language_of_the_one_before() -> None:
    doubtful = {"cy": 0.3, "de": 0.25, "fr": 0.2, "it": 0.25}
    assert languages_of(hear(load(), {"de": 0.9}, doubtful)) == [{"de"}, {"de"}]
    assert languages_of(hear(load(), doubtful)) == [{"cy"}]


def test_only_expected_languages_are_heard() -> None:
    assert languages_of(hear(load("de", "fr"), {"cy": 0.8, "de": 0.05, "fr": 0.15})) == [{"fr"}]
    assert languages_of(hear(load("ja"), {"cy": 1.0})) == [{"ja"}]  # without a look


def test_a_translation_is_english_and_says_what_was_spoken() -> None:
    transcriber = load(translate=True)
    german, english = hear(transcriber, {"de": 0.9}, {"en": 0.9})
    assert {(each.language, each.spoken_language) for each in german} == {("en", "de")}
    assert {(each.language, each.spoken_language) for each in english} == {("en", "")}
    assert transcriber.translates


@pytest.mark.parametrize(("languages", "translate"), [(("de",), False), (("en", "de"), False), ((), True)])
def test_a_model_of_english_refuses_what_it_cannot_do(languages: tuple[str, ...], translate: bool) -> None:
    with pytest.raises(WeightsInvalid, match="only English"):
        load(*languages, is_multilingual=False, translate=translate)


def test_what_changes_words_is_in_the_fingerprint() -> None:
    prints = {load(*names, translate=translate).fingerprint for names in ((), ("de",)) for translate in (False, True)}
    assert len(prints) == 4
    plain = load(is_multilingual=False)
    assert ":(None, 30.0, 0.5" in plain.fingerprint  # as before there were languages: libraries stay valid
    assert plain.language is None
