"""serve.video_warnings: one warning for each thing that a file lacks, with its place and what helps."""

import re
from dataclasses import replace

import numpy as np
import pytest

from encoders.values import Utterance
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, DecodeSummary, Frame, MediaInfo
from serve.video_warnings import KINDS, MAX_PLACES, FileFacts, length, list_places

MEDIA = MediaInfo(
    container="mov", duration_seconds=300.0, video_codec="h264", audio_codec="aac", width=64, height=48,
    rotation_degrees=0, frame_rate_fps=25.0,
)  # fmt: skip
SUMMARY = DecodeSummary(duration_seconds=300.0, epoch_count=1, frame_count=300, error_count=0, truncated=False)
CUT = replace(SUMMARY, duration_seconds=190.4, truncated=True, error_count=1)
LOUD = AudioBlock(epoch=0, start_seconds=0.0, samples=np.full(300 * SAMPLE_RATE_HZ, 0.5, np.float32))
SAID = Utterance(
    epoch=0, start_seconds=0.0, end_seconds=1.0, text="yes", words=(), language="en", avg_logprob=0.0,
    no_speech_prob=0.0,
)  # fmt: skip


class Model:
    """A speech model by name."""

    def __init__(self, name: str = "tiny.en", *, is_multilingual: bool = False, language: str | None = None) -> None:
        self.name, self.is_multilingual, self.language = name, is_multilingual, language
        self.translates = False


ENGLISH = Model()


def facts_of(*items: MediaInfo | Frame | AudioBlock | DecodeSummary) -> FileFacts:
    facts = FileFacts()
    for item in items:
        facts.take(item)
    return facts


def hear(facts: FileFacts, seconds: float, *, is_understood: bool) -> None:
    facts.take_words(np.array([[0.0, seconds / 2], [5.0, 5.0 + seconds / 2]]), [SAID] if is_understood else [])


def frame(epoch: int, seconds: float) -> Frame:
    return Frame(epoch=epoch, pts_seconds=seconds, pixels=np.zeros((2, 2, 3), np.uint8), thumbnail=b"")


@pytest.mark.parametrize(
    ("media", "summary", "warnings"),
    [
        (MEDIA, SUMMARY, []),
        (MEDIA, replace(CUT, error_count=0), ["it is cut off at 3:10 of 5:00"]),
        (replace(MEDIA, duration_seconds=None), replace(CUT, error_count=0), ["it is cut off at 3:10"]),
        (replace(MEDIA, duration_seconds=190.5), replace(CUT, error_count=0), ["it is cut off at 3:10"]),
        (MEDIA, replace(CUT, damaged=((190.0, 190.4),)), ["it is cut off at 3:10 of 5:00"]),  # the cut, once
        (
            MEDIA, replace(CUT, error_count=9, damaged=((12.0, 14.5), (190.0, 190.4))),
            ["it is cut off at 3:10 of 5:00", "damaged at 0:12–0:15 and 3:10: 9 packets were skipped"],  # noqa: RUF001
        ),
        (MEDIA, replace(SUMMARY, error_count=1), ["damaged: 1 packet was skipped"]),
        (MEDIA, replace(SUMMARY, error_count=2, damaged=((220.1, 220.2),)),
         ["damaged at 3:40: 2 packets were skipped"]),
        (MEDIA, replace(SUMMARY, frame_count=0),
         ["its pictures (h264) are missing or damaged: only its sound is indexed"]),
        (
            MEDIA, replace(SUMMARY, mended_count=1),
            ["the timestamps of 1 packet are damaged: their times were taken from the packets beside them"],
        ),
        (replace(MEDIA, video_codec=None), replace(SUMMARY, frame_count=0), []),
        (replace(MEDIA, video_codec=None), replace(SUMMARY, frame_count=0, undecodable_kinds=("video",)),
         ["there is no decoder for its pictures: only its sound is indexed"]),
        (MEDIA, replace(SUMMARY, partly_decodable_kinds=("video", "audio")),
         ["there is no decoder for one of its video tracks: another is indexed",
          "there is no decoder for one of its sound tracks: another is indexed"]),
        (replace(MEDIA, audio_codec=None), replace(SUMMARY, undecodable_kinds=("audio",)),
         ["there is no decoder for its sound: only its pictures are indexed"]),
        (MEDIA, replace(SUMMARY, unfollowed_count=1),
         ["1 stream that begins in mid-file cannot be read: pictures or sound are missing from there on"]),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_place(media: MediaInfo, summary: DecodeSummary, warnings: list[str]) -> None:
    assert list(facts_of(media, LOUD, summary).warnings(ENGLISH)) == warnings


def test_pictures_that_the_settings_leave_out_are_not_missed() -> None:
    facts = FileFacts(expects_pictures=False, media=MEDIA, summary=replace(SUMMARY, frame_count=0))
    facts.take(LOUD)
    assert facts.warnings(ENGLISH) == ()


def test_jumps_are_named_with_the_times_at_which_they_are_found() -> None:
    later = AudioBlock(epoch=1, start_seconds=199.0, samples=np.zeros(SAMPLE_RATE_HZ, np.float32))
    facts = facts_of(MEDIA, frame(0, 0.0), LOUD, frame(1, 200.0), later, frame(2, 250.0), SUMMARY)
    assert facts.warnings(None) == ("its timestamps jump at 3:19 and 4:10: times run on without the jumps",)


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        (ENGLISH, "speech.model is tiny.en, which knows only English; a larger one such as small knows more"),
        (Model("small", is_multilingual=True), "speech.model is small; a larger one understands more"),
        (
            Model("small", is_multilingual=True, language="de"),
            "speech.languages is de; leave it out if that is not the language",
        ),
    ],
)
def test_speech_without_words_names_the_setting_that_helps(model: Model, hint: str) -> None:
    facts = facts_of(MEDIA, LOUD, SUMMARY)
    hear(facts, 25.0, is_understood=False)
    assert facts.warnings(model) == (f"no word was understood in 25 s of speech: {hint}",)
    hear(facts, 10.0, is_understood=True)
    assert facts.warnings(model) == (f"words were understood in only 10 s of 35 s of speech: {hint}",)
    hear(facts, 90.0, is_understood=True)
    assert facts.warnings(model) == ()


def test_music_and_a_few_seconds_of_voices_are_no_fault() -> None:
    facts = facts_of(MEDIA, LOUD, SUMMARY)
    assert facts.warnings(ENGLISH) == ()
    hear(facts, 4.5, is_understood=False)
    assert facts.warnings(ENGLISH) == ()


@pytest.mark.parametrize("peak", [0.0, 0.0005])
def test_silent_sound_is_a_fact(peak: float) -> None:
    facts = facts_of(MEDIA, replace(LOUD, samples=np.full(SAMPLE_RATE_HZ, peak, np.float32)), SUMMARY)
    assert facts.warnings(ENGLISH) == ("its sound is silent",)
    assert facts.warnings(None) == ()  # the settings leave sound out


def test_a_track_without_a_sample_did_not_decode() -> None:
    assert facts_of(MEDIA, SUMMARY).warnings(ENGLISH) == (
        "its sound (aac) is missing or damaged: only its pictures are indexed",
    )
    assert facts_of(replace(MEDIA, audio_codec=None), SUMMARY).warnings(ENGLISH) == ()


def test_a_file_that_is_not_over_has_no_warnings_yet() -> None:
    assert facts_of(MEDIA, LOUD).warnings(ENGLISH) == ()


@pytest.mark.parametrize(
    ("spans", "text"),
    [
        ([(12.0, 12.5)], "0:12"),
        ([(12.0, 14.2)], "0:12–0:15"),  # noqa: RUF001
        ([(220.0, 220.0), (12.0, 14.2), (14.9, 16.0)], "0:12–0:16 and 3:40"),  # noqa: RUF001
        ([(10.0 * n, 10.0 * n) for n in range(MAX_PLACES)], "0:00, 0:10, 0:20, 0:30 and 0:40"),
        ([(10.0 * n, 10.0 * n) for n in range(20)], "0:00, 0:10, 0:20, 0:30 and 16 more places"),
    ],
)
def test_places_are_few_and_in_order(spans: list[tuple[float, float]], text: str) -> None:
    assert list_places(spans) == text


def test_lengths_are_seconds_up_to_a_minute() -> None:
    assert [length(seconds) for seconds in (5.2, 59.4, 59.6, 250.0)] == ["5 s", "59 s", "0:59", "4:10"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.text)
def test_every_kind_is_explained_with_an_example(kind) -> None:  # type: ignore[no-untyped-def]
    assert "{" not in kind.text.format(**kind.sample)
    assert kind.meaning.endswith(".")
    assert re.search(r"\.$", kind.remedy)


KNOWS_ENGLISH = "which know only English"


@pytest.mark.parametrize(
    ("model", "tag", "heard", "warning"),
    [
        (ENGLISH, "de", {"en": 9}, f"speech.model is tiny.en and sentence.model is all-MiniLM-L6-v2, {KNOWS_ENGLISH}"),
        (ENGLISH, None, {"en": 9}, None),
        (ENGLISH, "en", {"en": 9}, None),
        (Model("small", is_multilingual=True), "en", {"de": 9}, "sentence.model is all-MiniLM-L6-v2, which knows only"),
        (Model("small", is_multilingual=True), "de", {"en": 9, "de": 1}, None),  # a word or two
        (Model("small", is_multilingual=True), None, {}, None),
    ],
)
def test_another_language_names_the_settings_that_help(
    model: Model, tag: str | None, heard: dict[str, int], warning: str | None
) -> None:
    facts = facts_of(MEDIA, LOUD, SUMMARY)
    facts.language, facts.finds_only_english = tag, True
    for language, count in heard.items():
        facts.take_words(np.array([[0.0, 25.0]]), [replace(SAID, language=language)] * count)
    found = facts.warnings(model)
    assert len(found) == (warning is not None)
    assert all(text.startswith(f"it speaks de: {warning}") for text in found)
    facts.finds_only_english = False
    assert len(facts.warnings(model)) == (model is ENGLISH and tag == "de")


def test_speech_of_another_language_without_words_has_one_warning_which_names_the_model() -> None:
    facts = facts_of(MEDIA, LOUD, SUMMARY)
    facts.language = "de"
    hear(facts, 25.0, is_understood=False)
    (warning,) = facts.warnings(ENGLISH)
    assert warning.startswith("it speaks de: speech.model is ")


def test_speech_whose_words_subtitles_say_has_no_warning() -> None:
    facts = facts_of(MEDIA, LOUD, SUMMARY)
    facts.language = "de"
    facts.take_subtitled(np.array([[0.0, 25.0]]))
    assert facts.warnings(ENGLISH) == ()


def test_a_translation_is_found_by_a_model_of_english() -> None:
    facts = facts_of(MEDIA, LOUD, SUMMARY)
    facts.finds_only_english = True
    facts.take_words(np.array([[0.0, 25.0]]), [replace(SAID, spoken_language="de")])
    model = Model("small", is_multilingual=True)
    assert len(facts.warnings(model)) == 1
    model.translates = True
    assert facts.warnings(model) == ()
