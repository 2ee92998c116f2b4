"""The output of answers, videos and transcripts: JSON, tables, lines and subtitles."""

import html
import io
import itertools
import json
import math
import os
import re
import unicodedata
from dataclasses import dataclass, replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from encoders.values import Utterance
from serve.cli.render import (
    moment_json,
    moments_json,
    outcome_json,
    search_json,
    show_moments,
    show_search,
    show_video,
    show_videos,
    snippet,
)
from serve.cli.transcripts import CUE_LINES, LINE_CHARS, make_cues, to_srt, to_vtt, write_transcript
from serve.text import clock, printable, time_span, title, to_json
from serve.values import Answer, IndexOutcome, Speaker, Verdict
from support.sample_answers import moment, utterance, video, video_answer

LONG = " ".join(f"word{number}," for number in range(60)) + " and that was all."


def shown(show: object, *arguments: object, terminal: bool = False, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system="standard" if terminal else None)
    show(console, *arguments)  # type: ignore[operator]
    return stream.getvalue()


# ------------------------------------------------------------------ JSON
def test_moments_with_and_without_a_text_score_and_a_time_of_day_are_aligned() -> None:
    output = io.StringIO()
    found = (moment(text_score=0.5), moment(recorded_time=0.0, uri="/b.mp4"))
    show_moments(Console(file=output, width=300), "q", Answer(moments=found))
    lines = output.getvalue().splitlines()
    assert lines[0].index("visual") == lines[1].index("visual")
    assert "  3fa9c0ff  " in lines[0]
    assert "text 0.50" in lines[0]
    assert "1970" in lines[1] or "1969" in lines[1]


def test_a_moment_has_the_keys_of_the_contract_in_order() -> None:
    assert list(moment_json(moment())) == [
        "video_id",
        "uri",
        "start_seconds",
        "end_seconds",
        "score",
        "confidence",
        "verdict",
        "visual_score",
        "speech_score",
        "text_score",
        "matched_text",
        "transcript",
        "best_frame_seconds",
        "recorded_time",
        "final",
    ]


def test_a_search_has_the_keys_of_the_contract_in_order() -> None:
    document = search_json("q", Answer(videos=(video_answer(moment()),)))
    assert list(document) == ["query", "results"]
    assert list(document["results"][0]) == ["video_id", "uri", "score", "confidence", "verdict", "moments"]
    assert document["results"][0]["moments"] == [moment_json(moment())]


def test_a_moments_answer_has_the_keys_of_the_contract_in_order() -> None:
    assert moments_json("q", Answer(moments=(moment(),))) == {"query": "q", "moments": [moment_json(moment())]}


def test_an_outcome_has_the_keys_of_the_contract_in_order() -> None:
    outcome = IndexOutcome(video_id=None, uri="x.mp4", status="failed", error="no such file: x.mp4")
    assert outcome_json(outcome) == {
        "video_id": None,
        "uri": "x.mp4",
        "status": "failed",
        "duration_seconds": None,
        "frames": 0,
        "segments": 0,
        "utterances": 0,
        "error": "no such file: x.mp4",
        "warnings": [],
    }
    keys = ["video_id", "uri", "status", "duration_seconds", "frames", "segments", "utterances", "error", "warnings"]
    assert list(outcome_json(outcome)) == keys


def test_json_rounds_times_to_milliseconds_and_scores_to_four_digits() -> None:
    found = moment_json(moment())
    assert (found["start_seconds"], found["score"], found["confidence"]) == (62.123, 0.9123, 0.8765)


def test_json_rounds_times_to_nanoseconds_first_and_has_no_negative_zero() -> None:
    edge = moment(start_seconds=math.nextafter(16.0005, 0), end_seconds=-0.0, score=-1e-9, best_frame_seconds=-1e-12)
    found = moment_json(edge)
    assert found["start_seconds"] == round(16.0005, 3)
    assert b"-0.0" not in to_json(found)


def test_a_span_in_words_is_the_same_before_and_after_a_server_rounds_it() -> None:
    assert time_span(math.nextafter(60.0, 0), math.nextafter(70.0, 71)) == time_span(60.0, 70.0)


def test_json_never_holds_nan() -> None:
    assert json.loads(to_json(moment_json(moment(score=float("nan"), visual_score=float("inf")))))["score"] is None


def test_json_is_utf8_and_preserves_the_bytes_of_an_undecodable_file_name() -> None:
    name = os.fsdecode(b"caf\xc3\xa9 \xff.mp4")
    encoded = to_json({"uri": name})
    assert "café".encode() in encoded
    assert os.fsencode(json.loads(encoded.decode("utf-8"))["uri"]) == b"caf\xc3\xa9 \xff.mp4"


# ------------------------------------------------------------------ phrases
@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.99, "0:59"), (60, "1:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_clock_cuts_to_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_short_span_is_never_empty() -> None:
    assert time_span(3.2, 3.4) == "0:03\N{EN DASH}0:04"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/videos/a talk.mp4", "a talk.mp4"),
        ("talk #2?.mp4", "talk #2?.mp4"),
        ("https://example.org/v/my%20talk.webm?x=1", "my talk.webm"),
        ("https://example.org/", "example.org"),
        ("http://[half", "http://[half"),
        ("/videos/\x1b[31mred\u202e.mp4", "�[31mred�.mp4"),
    ],
)
def test_a_title_is_the_file_name_made_safe(uri: str, name: str) -> None:
    assert title(uri) == name


def test_a_snippet_keeps_the_matched_word_and_marks_it() -> None:
    said = "one two three " * 40 + "then PARIS, at last " + "four five six " * 40
    text = snippet(said, ("paris",), limit=80)
    assert "PARIS" in text.plain
    assert text.plain.startswith("… ")
    assert text.plain.endswith(" …")
    assert len(text.plain) <= 84
    assert [text.plain[span.start : span.end] for span in text.spans] == ["PARIS"]


def test_a_snippet_marks_whole_words_and_phrases_only() -> None:
    text = snippet("Parisian art in New York", ("paris", "new york", ""))
    assert [text.plain[span.start : span.end] for span in text.spans] == ["New York"]


# ------------------------------------------------------------------ tables and lines
def test_piped_moments_are_aligned_lines_without_colour() -> None:
    answer = Answer(moments=(moment(), moment(uri="b.mp4", verdict=Verdict.WEAK, confidence=0.4, visual_score=None)))
    lines = shown(show_moments, "q", answer, width=20).splitlines()
    assert len(lines) == 2
    assert "\x1b" not in "".join(lines)
    assert "\t" not in "".join(lines)
    assert lines[0].index("MATCH") == lines[1].index("WEAK")
    assert "1:02–1:19" in lines[0]  # noqa: RUF001
    assert "a talk [part 1].mp4" in lines[0]
    assert "visual 0.31" in lines[0]
    assert "moved to Paris" in lines[0]


def test_a_terminal_gets_colour_and_bold_matched_words() -> None:
    text = shown(show_moments, "q", Answer(moments=(moment(),)), terminal=True, width=140)
    assert "\x1b[1mParis" in text
    assert "\x1b[1;32mMATCH" in text


@pytest.mark.parametrize("show", [show_moments, show_search])
def test_only_weak_evidence_is_announced(show: object) -> None:
    absent = moment(verdict=Verdict.NO_MATCH, confidence=0.02)
    answer = Answer(moments=(absent,), videos=(video_answer(absent),))
    assert shown(show, "q", answer).startswith("no confident answer; the nearest:\n")


@pytest.mark.parametrize("show", [show_moments, show_search])
def test_an_empty_answer_says_so(show: object) -> None:
    assert shown(show, "q", Answer()) == "nothing found for 'q'\n"


def test_search_shows_the_best_moment_of_each_video() -> None:
    text = shown(show_search, "q", Answer(videos=(video_answer(moment(), moment(start_seconds=5.0)),)))
    assert "1:02–1:19" in text  # noqa: RUF001
    assert "3fa9c0ff" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_videos_and_their_facts_are_shown(terminal: bool) -> None:
    text = shown(show_videos, [video(), video(warnings=("it ends early",))], terminal=terminal, width=160)
    assert "3fa9c0ffee123456" in text
    assert "2:03" in text
    assert text.count("! 1 warning") == 1
    facts = shown(show_video, video(warnings=("it ends early", "its sound is silent")), terminal=terminal, width=160)
    plain = re.sub(r"\x1b\[[\d;]*m", "", facts)
    assert re.search(r"^warnings +it ends early *\n +its sound is silent *$", plain, re.MULTILINE)
    assert "h264" in facts
    assert "123.4 (2:03)" in facts


# ------------------------------------------------------------------ transcripts
@dataclass(frozen=True)
class ParsedCue:
    start: float
    end: float
    lines: list[str]


def parsed(text: str, point: str) -> list[ParsedCue]:
    """Read subtitle blocks back, strictly."""
    time = rf"(\d\d):(\d\d):(\d\d)\{point}(\d\d\d)"
    found = []
    for block in text.removesuffix("\n").split("\n\n"):
        lines = block.split("\n")
        if point == ",":
            assert lines.pop(0) == str(len(found) + 1)
        match = re.fullmatch(f"{time} --> {time}", lines.pop(0))
        assert match is not None
        numbers = [int(group) for group in match.groups()]
        start, end = (h * 3600 + m * 60 + s + ms / 1000 for h, m, s, ms in (numbers[:4], numbers[4:]))
        assert lines
        assert all(lines)
        found.append(ParsedCue(start=start, end=end, lines=lines))
    return found


UTTERANCES = [
    utterance("Tom & Jerry <b>run</b> --> away.", 0.5, 2.0),
    utterance(LONG, 3.0, 33.0),
    utterance(LONG, 40.0, 70.0, timed=False),
    utterance("我喜欢巴黎的春天" * 20, 80.0, 100.0),
    utterance("Short.", 3700.0, 3700.0),
]


@pytest.mark.parametrize(
    ("text", "point"),
    [(to_srt(make_cues(UTTERANCES)), ","), (to_vtt(make_cues(UTTERANCES)).removeprefix("WEBVTT\n\n"), ".")],
    ids=["srt", "vtt"],
)
def test_subtitles_read_back_with_proper_times_and_short_lines(text: str, point: str) -> None:
    found = parsed(text, point)
    assert all(cue.start < cue.end for cue in found)
    assert all(first.end <= second.start for first, second in itertools.pairwise(found))
    assert all(len(cue.lines) <= CUE_LINES for cue in found)
    assert all(line == line.strip() for cue in found for line in cue.lines)
    assert all(len(html.unescape(line)) <= LINE_CHARS for cue in found for line in cue.lines)
    assert found[-1].start == 3700.0
    words = " ".join(html.unescape(line) for cue in found for line in cue.lines).split()
    assert "".join(words).replace("-->", "->") == "".join("".join(each.text.split()) for each in UTTERANCES).replace(
        "-->", "->"
    )


def test_a_cue_starts_when_its_first_word_is_spoken() -> None:
    spoken = utterance(LONG, 3.0, 33.0)
    starts = {word.text: word.start_seconds for word in spoken.words}
    for cue in make_cues([spoken]):
        assert cue.start_seconds == starts[cue.lines[0].split()[0]]


def test_a_sentence_too_long_for_a_cue_leaves_no_single_word() -> None:
    said = "From fairest creatures we desire increase, that thereby beauty's rose might never ever die."
    first, second = make_cues([utterance(said, 0.0, 9.0)])
    assert min(len(" ".join(first.lines)), len(" ".join(second.lines))) > 35


def test_vtt_escapes_markup_and_srt_shortens_arrows() -> None:
    assert "Tom &amp; Jerry &lt;b&gt;run&lt;/b&gt;" in to_vtt(make_cues(UTTERANCES))
    assert "-> away" in to_srt(make_cues(UTTERANCES))


def test_a_short_cue_is_stretched_but_not_into_the_next() -> None:
    first, second = make_cues([utterance("Hi.", 1.0, 1.05), utterance("You.", 1.2, 1.3)])
    assert (first.end_seconds, second.end_seconds) == (1.2, 1.7)


@pytest.mark.parametrize(("wanted", "text"), [("text", ""), ("srt", ""), ("vtt", "WEBVTT\n")])
def test_silence_has_an_empty_transcript(wanted: str, text: str) -> None:
    assert write_transcript(video(), [], wanted) == text  # type: ignore[arg-type]


def test_the_text_transcript_has_a_line_for_each_utterance() -> None:
    said: list[Utterance] = [utterance("Hello\nthere.", 61.0, 62.0), utterance("Bye.", 3600.0, 3601.0)]
    assert write_transcript(video(), said, "text") == "[1:01] Hello there.\n[1:00:00] Bye.\n"


def test_the_json_transcript_has_every_word() -> None:
    document = json.loads(write_transcript(video(), [utterance("Hello there.", 1.0, 2.0)], "json"))
    assert document["video_id"] == video().video_id
    [said] = document["utterances"]
    assert said["text"] == "Hello there."
    assert said["words"][1] == {"text": "there.", "start_seconds": 1.5, "end_seconds": 2.0, "probability": 0.9}


@pytest.mark.parametrize(
    "text",
    [
        "昨日東京で会議がありました。" * 6,
        "我喜欢巴黎的春天 " * 12,
        "ฉันชอบกินข้าวผัดที่ตลาดน้ำ" * 5,
        "שלום לכולם וברוכים הבאים " * 5,
        "a" * 300,
    ],
    ids=["ja", "zh", "th", "he", "long"],
)
def test_lines_of_any_script_fit_a_subtitle(text: str) -> None:
    cues = make_cues([utterance(text, 0.0, 30.0, timed=False)])
    lines = [line for cue in cues for line in cue.lines]
    assert all(0 < cell_len(line) <= LINE_CHARS for line in lines)
    assert not any(unicodedata.category(line[0]) == "Mn" for line in lines)  # a mark stays with its letter
    assert "".join("".join(lines).split()) == "".join(text.split())  # in the order in which it is spoken


SPEAKERS = (
    Speaker(number=1, name="Ana <b>", utterance_count=2, speech_seconds=3.0, start_seconds=0.0),
    Speaker(number=2, name="", utterance_count=1, speech_seconds=1.0, start_seconds=4.0),
)
DIALOGUE = [
    replace(utterance("Who are you?", 0.0, 1.0), speaker=1),
    replace(utterance("I ask.", 2.0, 3.0), speaker=1),
    replace(utterance("Nobody at all, said the one who had come in from the rain.", 4.0, 8.0), speaker=2),
    utterance("(music)", 9.0, 9.5),
]


def test_a_transcript_says_who_speaks() -> None:
    text = write_transcript(video(), DIALOGUE, "text", SPEAKERS).splitlines()
    assert text[:2] == ["[0:00] Ana <b>: Who are you?", "[0:02] Ana <b>: I ask."]
    assert text[3] == "[0:09] (music)"
    first, second, third, fourth = parsed(write_transcript(video(), DIALOGUE, "srt", SPEAKERS), ",")
    assert (first.lines, second.lines, fourth.lines) == (["Ana <b>: Who are you?"], ["I ask."], ["(music)"])
    assert " ".join(third.lines).startswith("speaker 2: Nobody")
    assert all(len(line) <= LINE_CHARS for line in third.lines)
    vtt = write_transcript(video(), DIALOGUE, "vtt", SPEAKERS)
    assert vtt.count("<v Ana &lt;b&gt;>") == 2
    assert "<v speaker 2>Nobody" in vtt
    assert vtt.endswith("\n(music)\n")
    said = json.loads(write_transcript(video(), DIALOGUE, "json", SPEAKERS))["utterances"]
    assert [(each["speaker"], each["speaker_name"]) for each in said] == [
        (1, "Ana <b>"),
        (1, "Ana <b>"),
        (2, None),
        (None, None),
    ]


def test_a_transcript_tells_a_translation_from_what_was_said() -> None:
    said = [replace(utterance("Good day.", 0.0, 1.0), spoken_language="de"), utterance("Yes.", 2.0, 3.0)]
    document = json.loads(write_transcript(video(), said, "json"))
    assert [(each["language"], each["spoken_language"]) for each in document["utterances"]] == [
        ("en", "de"),
        ("en", "en"),
    ]


def test_printable_keeps_letters_of_every_script() -> None:
    assert printable("Привет, 世界 👩‍👩‍👧 é") == "Привет, 世界 👩‍👩‍👧 é"
