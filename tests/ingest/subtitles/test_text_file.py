# ruff: noqa: RUF001 (letters of other alphabets look like Latin ones)
"""Subtitle files: formats, encodings and languages, and files that are made to harm."""

import io
from collections.abc import Sequence

import pytest

from ingest.config import DecodeConfig
from ingest.sandbox.pool import DecodePool
from ingest.subtitles import text_file
from ingest.subtitles.limits import MAX_COUNT, MAX_FILE_BYTES, MAX_LINES, MAX_TEXT_CHARS
from ingest.subtitles.text_file import read_subtitle_file
from ingest.values import Subtitle, SubtitleTrack

# Three sentences of our own in each language, and the encodings that its old files have.
TEXTS = {
    "en": ("Where are you going tonight?", "To the market, for bread and milk.", "It’s late — the café is closed."),
    "de": ("Wohin gehst du heute Nacht?", "Über die Straße, für Brot und Käse.", "Schöne Grüße an die Mütter."),
    "fr": ("Où vas-tu ce soir ?", "Au marché, acheter du fromage.", "C’est très gentil, élève Zoé."),
    "es": ("¿Adónde vas esta noche?", "Al mercado, señor, mañana también.", "¡Qué corazón tan pequeño!"),
    "pl": ("Dokąd idziesz dziś wieczorem?", "Na targ, żeby kupić chleb i mleko.", "Źdźbło trawy i gęś."),
    "tr": ("Bu gece nereye gidiyorsun?", "Çarşıya, ekmek ve süt almaya.", "Işık çok güzel, iyi günler."),
    "ru": ("Куда ты идёшь сегодня?", "На рынок, купить хлеба и молока.", "Большое спасибо, до свидания."),
    "el": ("Πού πας απόψε;", "Στην αγορά, για ψωμί και γάλα.", "Ευχαριστώ πολύ, καληνύχτα."),
    "he": ("לאן אתה הולך הלילה?", "לשוק, לקנות לחם וחלב.", "תודה רבה ולילה טוב."),
    "ja": ("今夜どこに行くの？", "市場でパンと牛乳を買います。", "ありがとうございました。"),
    "zh": ("你今晚要去哪里？", "去市场买面包和牛奶。", "非常感谢你，晚安。"),
    "ko": ("오늘 밤 어디 가세요?", "시장에 빵과 우유를 사러 갑니다.", "정말 감사합니다."),
}
ENCODINGS = {
    "en": ("cp1252", "utf-8"), "de": ("cp1252", "utf-8-sig"), "fr": ("cp1252", "utf-16"), "es": ("cp1252",),
    "pl": ("cp1250", "iso8859-2"), "tr": ("cp1254",), "ru": ("cp1251", "koi8-r"), "el": ("cp1253",),
    "he": ("cp1255",), "ja": ("shift_jis", "euc_jp"), "zh": ("gb18030", "utf-16-le"), "ko": ("cp949", "utf-16-be"),
}  # fmt: skip
SPANS = ((1.0, 2.5), (3.2, 4.0), (3661.5, 3663.0))


def clock(seconds: float, point: str, digits: int = 3, hours: str = "02") -> str:
    whole = round(seconds * 10**digits)
    minutes, rest = divmod(whole, 60 * 10**digits)
    return f"{minutes // 60:{hours}}:{minutes % 60:02}:{rest // 10**digits:02}{point}{rest % 10**digits:0{digits}}"


def as_srt(lines: Sequence[str]) -> str:
    return "".join(
        f"{n}\r\n{clock(start, ',')} --> {clock(end, ',')}\r\n<i>{line}</i>\r\n\r\n"
        for n, ((start, end), line) in enumerate(zip(SPANS, lines, strict=True), start=1)
    )


def as_vtt(lines: Sequence[str]) -> str:
    cues = (
        f"cue {line[0]}\n{clock(start, '.')} --> {clock(end, '.')} align:start position:0%\n<v Ann>{line}</v>\n\n"
        for (start, end), line in zip(SPANS, lines, strict=True)
    )
    return "WEBVTT\n\nSTYLE\n::cue { color: red }\n\nNOTE written by hand\n\n" + "".join(cues)


def as_ass(lines: Sequence[str]) -> str:
    head = "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nStyle: Default,Arial,not a number\n\n[Events]\n"
    return head + "".join(
        f"Dialogue: 0,{clock(start, '.', 2, '')},{clock(end, '.', 2, '')},Default,Ann,0,0,0,,{{\\an8\\i1}}{line}\\N\n"
        for (start, end), line in zip(SPANS, lines, strict=True)
    )


def as_lrc(lines: Sequence[str]) -> str:
    timed = [f"[{int(s // 60):02}:{s % 60:05.2f}]{line}" for (s, _), line in zip(SPANS, lines, strict=True)]
    ends = [f"[{int(e // 60):02}:{e % 60:05.2f}]" for _, e in SPANS]
    return "[ar:Somebody]\n[ti:A song]\n" + "\n".join(timed + ends)


FORMATS = {"srt": as_srt, "vtt": as_vtt, "ass": as_ass, "lrc": as_lrc}


def read(data: bytes, suffix: str = "srt", language: str | None = None) -> SubtitleTrack:
    return read_subtitle_file(io.BytesIO(data).read, suffix=suffix, name="", language=language, kind="full")


def texts(track: SubtitleTrack) -> list[str]:
    return [one.text for one in track.subtitles]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("language", "encoding"), [(name, each) for name in TEXTS for each in ENCODINGS[name]])
def test_each_format_in_each_encoding_gives_its_words_and_times(suffix: str, language: str, encoding: str) -> None:
    lines = [line.replace("—", "-") if "iso" in encoding else line for line in TEXTS[language]]
    track = read(FORMATS[suffix](lines).encode(encoding), suffix, language)
    assert (texts(track), track.problem, track.refused_count) == (lines, "", 0)
    for one, (start, end) in zip(track.subtitles, SPANS, strict=True):
        assert one.start_seconds == pytest.approx(start, abs=0.01)
        assert one.end_seconds == pytest.approx(end, abs=0.01)


@pytest.mark.parametrize("language", ["ru", "el", "he", "zh", "ko"])
def test_an_alphabet_tells_its_encoding_where_the_name_does_not(language: str) -> None:
    assert texts(read(as_srt(TEXTS[language]).encode(ENCODINGS[language][0]))) == list(TEXTS[language])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('<b>Bold</b> and <font color="#ff0000">red</font>', "Bold and red"),
        ("{\\an8}{\\fad(200,200)}Above", "Above"),
        ("Tom &amp; Ann &lt;3", "Tom & Ann <3"),
        ("- Yes.\n- No.", "- Yes. - No."),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("abc\u202edcba\u202c\u200f end", "abcdcba end"),
        ("a\x00\x07b\u2028c", None),
        ("می\u200cروم", "می\u200cروم"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("the year was\n1984", "the year was 1984"),
        ("\u266a \u266a", None),
        ("e\u0301te\u0301", "été"),
    ],
)
def test_text_is_plain(text: str, plain: str | None) -> None:
    track = read(f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n".encode())
    assert texts(track) == ([plain] if plain is not None else [])


def test_drawings_and_comments_of_ass_are_no_text() -> None:
    times = "0:00:01.00,0:00:02.00,Default,,0,0,0,,"
    lines = [f"Dialogue: 0,{times}{{\\p1}}m 0 0 l 100 0", f"Comment: 0,{times}not shown", f"Dialogue: 0,{times}Shown"]
    assert texts(read("\n".join(lines).encode(), "ass")) == ["Shown"]


WRONG = [
    ("srt", "1\n00:00:05,000 --> 00:00:03,000\nBackward\n"),
    ("srt", "1\n-00:00:05,000 --> 00:00:03,000\nNegative\n"),
    ("srt", "1\n00:00:05,000 --> 99:59:59,999\nFor days\n"),
    ("srt", "1\n00:00:05 --> soon\nNo times\n"),
    ("vtt", "WEBVTT\n\n00:05.000 --> 00:05.000\nNo length\n"),
    ("ass", "Dialogue: 0,0:00:05.00,nan,Default,,0,0,0,,Not a number\n"),
]


@pytest.mark.parametrize(("suffix", "wrong"), WRONG)
def test_wrong_times_are_refused_and_counted(suffix: str, wrong: str) -> None:
    right = FORMATS[suffix](TEXTS["en"])
    track = read((right + "\n" + wrong.removeprefix("WEBVTT")).encode(), suffix)
    assert (texts(track), track.refused_count) == (list(TEXTS["en"]), 1)
    assert read(wrong.encode(), suffix).problem == "all its times are wrong"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("data", [b"", b"\n\n\n", b"<html><body>Not found</body></html>", b"\xff\xd8\xff\xe0" * 500])
def test_what_has_no_subtitles_says_so(suffix: str, data: bytes) -> None:
    assert read(data, suffix).problem in ("it has no subtitles", "it is no text in a known encoding")


@pytest.mark.parametrize("suffix", FORMATS)
def test_binary_files_are_no_text(suffix: str) -> None:
    assert read(bytes(range(256)) * 4000, suffix).problem == "it is no text in a known encoding"


def test_repeated_and_rolling_lines_count_once() -> None:
    shown = [(0, 2, "So today"), (2, 2.01, "So today"), (2.01, 4, "So today\nwe bake"), (4, 6, "we bake\nbread."),
             (20, 21, "So today")]  # fmt: skip
    track = read("".join(f"1\n{clock(a, ',')} --> {clock(b, ',')}\n{text}\n\n" for a, b, text in shown).encode())
    assert track.subtitles == (
        Subtitle(0.0, 2.01, "So today"), Subtitle(2.01, 4.0, "we bake"), Subtitle(4.0, 6.0, "bread."),
        Subtitle(20.0, 21.0, "So today"),
    )  # fmt: skip


def test_subtitles_out_of_order_come_in_order_of_time() -> None:
    cues = as_srt(TEXTS["en"]).split("\r\n\r\n")
    assert texts(read("\r\n\r\n".join(reversed(cues)).encode())) == list(TEXTS["en"])


def test_lyrics_may_have_several_times_an_offset_and_times_of_words() -> None:
    track = read(b"[offset:+500]\n[00:10.50][00:30.50]<00:10.50>La <00:11.00>la\n[00:12.50]Verse\n", "lrc")
    assert track.subtitles == (
        Subtitle(10.0, 12.0, "La la"),
        Subtitle(12.0, 22.0, "Verse"),
        Subtitle(30.0, 40.0, "La la"),
    )


def test_an_endless_file_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "MAX_FILE_BYTES", 10_000)
    cues = "".join(f"{n}\n{clock(n, ',')} --> {clock(n + 1, ',')}\nLine {n}\n\n" for n in range(1, 1000))
    track = read_subtitle_file(io.BytesIO(cues.encode()).read, suffix="srt", name="", language=None, kind="full")
    assert track.is_cut
    assert texts(track)[:2] == ["Line 1", "Line 2"]
    assert len(track.subtitles) < 300


def test_a_long_subtitle_is_cut() -> None:
    lines = "\n".join(f"line {n} " + "x" * 400 for n in range(100))
    (only,) = read(f"1\n00:00:01,000 --> 00:00:02,000\n{lines}\n".encode()).subtitles
    assert len(only.text) <= MAX_TEXT_CHARS
    assert f"line {MAX_LINES}" not in only.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "unit"),
    [
        ("srt", "<a" * 100), ("srt", "{\\i1}" * 50 + "\n"), ("srt", "\n1"), ("srt", "00:00:01,000 --> 00:00:02,000\n"),
        ("vtt", "00:01.000 --> 00:02.000\n<" + "<" * 90 + "\n\n"), ("ass", "Dialogue: 0," + "0:" * 60),
        ("ass", "Dialogue: 0,0:00:01.00,0:00:02.00,,,0,0,0,,{{\\t(\n"), ("lrc", "[00:01.00]" * 40), ("lrc", "[00:01"),
    ],
)  # fmt: skip
def test_a_child_reads_files_made_to_take_long(suffix: str, unit: str) -> None:
    data = (unit * (MAX_FILE_BYTES // len(unit) + 1)).encode()
    with DecodePool(DecodeConfig(), workers=1) as pool:  # which ends a child that takes too long
        track = pool.read_subtitles(io.BytesIO(data), suffix=suffix, name="film.srt", language=None, kind="full")
    assert track.name == "film.srt"
    assert len(track.subtitles) <= MAX_COUNT


@pytest.mark.slow
def test_a_child_knows_all_encodings_although_it_can_open_no_file() -> None:
    with DecodePool(DecodeConfig(), workers=1) as pool:
        for language, encodings in ENCODINGS.items():
            data = io.BytesIO(as_srt(TEXTS[language]).encode(encodings[-1], "replace"))
            track = pool.read_subtitles(data, suffix="srt", name="", language=language, kind="full")
            assert len(track.subtitles) == 3
