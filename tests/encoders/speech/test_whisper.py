"""Words and their times from real sound with the real small model."""

import difflib
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.decoding import DecodingOptions, DecodingTask

from encoders.config import SpeechConfig
from encoders.speech.shrinking_batch import ShrinkingTask
from encoders.speech.text_decoder import prepare
from encoders.speech.whisper import Transcriber
from encoders.threads import LEAST_SHARE
from encoders.values import Utterance
from ingest.values import SAMPLE_RATE_HZ
from support.speech import GOLDEN, push_all, read_sound

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber.load(SpeechConfig(device="cpu"))


def spoken(transcriber: Transcriber, path: Path, start_seconds: float = 0.0) -> list[Utterance]:
    windows = push_all(transcriber.open_stream(), read_sound(path), start_seconds=start_seconds)
    return [utterance for utterances in transcriber.transcribe(windows) for utterance in utterances]


def plain(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def test_hears_each_sentence_at_its_time(transcriber: Transcriber) -> None:
    truth = json.loads((GOLDEN / "speech.json").read_text())["sentences"]
    utterances = spoken(transcriber, GOLDEN / "speech.ogg")
    assert len(utterances) == len(truth)
    for utterance, sentence in zip(utterances, truth, strict=True):
        same = difflib.SequenceMatcher(None, plain(utterance.text), plain(sentence["text"])).ratio()
        assert same > 0.85, (utterance.text, sentence["text"])
        assert utterance.start_seconds == pytest.approx(sentence["start_seconds"], abs=0.3)
        assert utterance.end_seconds == pytest.approx(sentence["end_seconds"], abs=0.3)
        assert utterance.language == "en"


def test_words_are_in_order_inside_their_utterance(transcriber: Transcriber) -> None:
    for utterance in spoken(transcriber, GOLDEN / "speech.ogg"):
        assert utterance.start_seconds == utterance.words[0].start_seconds
        assert utterance.end_seconds == utterance.words[-1].end_seconds
        assert utterance.text == " ".join(word.text for word in utterance.words)
        assert all(a.end_seconds <= b.start_seconds for a, b in pairwise(utterance.words))
        assert all(0 <= word.probability <= 1 for word in utterance.words)


def test_times_are_media_time(transcriber: Transcriber) -> None:
    at_zero = spoken(transcriber, GOLDEN / "speech.ogg")
    later = spoken(transcriber, GOLDEN / "speech.ogg", start_seconds=3600.0)
    assert [u.text for u in later] == [u.text for u in at_zero]
    assert later[0].start_seconds == pytest.approx(at_zero[0].start_seconds + 3600)


def test_words_do_not_depend_on_the_batch(transcriber: Transcriber) -> None:
    windows = push_all(transcriber.open_stream(), read_sound(GOLDEN / "speech.ogg"))
    rng = np.random.default_rng(0)
    noise = replace(windows[0], samples=(0.1 * rng.standard_normal(5 * SAMPLE_RATE_HZ)).astype(np.float32))
    together = transcriber.transcribe([windows[1], noise, windows[0]])
    alone = [transcriber.transcribe([window])[0] for window in (windows[1], noise, windows[0])]
    for a, b in zip(together, alone, strict=True):
        assert [u.text for u in a] == [u.text for u in b]
        assert [u.start_seconds for u in a] == pytest.approx([u.start_seconds for u in b], abs=0.05)


def test_words_do_not_depend_on_how_windows_are_shared_out(transcriber: Transcriber) -> None:
    windows = push_all(transcriber.open_stream(), read_sound(GOLDEN / "speech.ogg"))
    many = [windows[n % len(windows)] for n in range(2 * LEAST_SHARE + 1)]
    alone = {id(window): transcriber.transcribe([window])[0] for window in windows}
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    sharing = Transcriber.load(SpeechConfig(device="cpu"))
    torch.set_num_threads(before)
    for window, found in zip(many, sharing.transcribe(many), strict=True):
        assert [u.text for u in found] == [u.text for u in alone[id(window)]]
        times = [word.start_seconds for u in alone[id(window)] for word in u.words]
        assert [word.start_seconds for u in found for word in u.words] == pytest.approx(times, abs=0.05)


def test_leaving_out_ended_rows_changes_no_token(transcriber: Transcriber) -> None:
    windows = push_all(transcriber.open_stream(), read_sound(GOLDEN / "speech.ogg"))
    short = replace(windows[0], samples=windows[0].samples[: 2 * SAMPLE_RATE_HZ])
    features = transcriber._encode([windows[0], short, windows[1]])
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False)
    theirs = DecodingTask(transcriber._model, options).run(features)
    sound = prepare(transcriber._model, features)
    mine = ShrinkingTask(transcriber._model, options, transcriber._vocabulary, sound).run(features)
    assert len({len(result.tokens) for result in theirs}) > 1  # they do end at different steps
    for a, b in zip(mine, theirs, strict=True):
        assert a.tokens == b.tokens
        assert a.avg_logprob == pytest.approx(b.avg_logprob, abs=1e-4)
        assert a.no_speech_prob == pytest.approx(b.no_speech_prob, abs=1e-5)


@pytest.mark.parametrize("kind", ["silence", "noise", "hum", "clicks", "melody"])
def test_makes_up_no_words_even_where_the_detector_is_wrong(transcriber: Transcriber, kind: str) -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(10 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    sounds = {
        "silence": np.zeros_like(seconds),
        "noise": 0.1 * rng.standard_normal(len(seconds)),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * seconds),
        "clicks": (rng.random(len(seconds)) < 1e-4).astype(float),
        "melody": 0.3 * np.sin(2 * np.pi * 220 * 2 ** (np.floor(seconds * 3) % 8 / 12) * seconds),
    }
    [window, *_] = push_all(transcriber.open_stream(), read_sound(GOLDEN / "speech.ogg"))
    fooled = replace(window, samples=sounds[kind].astype(np.float32), speech=np.array([[0.0, 10.0]]))
    assert transcriber.transcribe([fooled]) == [[]]


def test_no_windows_make_no_utterances(transcriber: Transcriber) -> None:
    assert transcriber.transcribe([]) == []


def test_says_which_languages_it_knows(transcriber: Transcriber) -> None:
    assert (transcriber.name, transcriber.is_multilingual, transcriber.language) == ("tiny.en", False, None)


def test_fingerprint_names_weights_and_what_changes_words(transcriber: Transcriber) -> None:
    assert transcriber.name == "tiny.en"
    assert "tiny.en" in transcriber.fingerprint
    assert Transcriber.load(SpeechConfig(vad_threshold=0.4)).fingerprint != transcriber.fingerprint
    assert Transcriber.load(SpeechConfig(batch_count=2)).fingerprint == transcriber.fingerprint


def test_hears_a_president(transcriber: Transcriber, shared: Path) -> None:
    utterances = spoken(transcriber, shared / "videos" / "speech" / "whisper__jfk.flac")
    text = " ".join(" ".join(plain(utterance.text)) for utterance in utterances)
    assert text == (
        "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
    )


@pytest.mark.parametrize(
    "name",
    [
        "supervision__walking.mp4",
        "web-platform-tests__big-buck-bunny-240p.ogv",
        "moviepy__test_video.mp4",
        "sam2__01_dog.mp4",
        "hls.js__demo_video_560-566_concat.ts",
        "media__ssasample.mkv",
        "Video-LLaVA__sample_demo_16.mp4",
    ],
)
def test_real_music_sport_and_noise_make_no_ghosts(transcriber: Transcriber, shared: Path, name: str) -> None:
    utterances = spoken(transcriber, shared / "videos" / "files" / name)
    assert sum(len(utterance.words) for utterance in utterances) <= 1, utterances


def test_laughter_is_not_thanked_for_watching(transcriber: Transcriber, shared: Path) -> None:
    utterances = spoken(transcriber, shared / "videos" / "files" / "mediaelement__grampa-laughing.flv")
    assert "watching" not in " ".join(utterance.text for utterance in utterances)
    # From wherever it is cut in the last three seconds tiny.en is fairly sure of "that's right now", or the end of it.
    assert sum(len(utterance.words) for utterance in utterances) <= 3
