"""Subtitles through the pipeline: whose words are taken, and what re-indexing notices."""

from dataclasses import replace
from pathlib import Path

import pytest
from av.stream import Disposition

from encoders.values import Utterance, WordSource
from ingest.config import DecodeConfig
from serve.catalog.catalog import Catalog
from serve.catalog.speech.subtitles import subtitles_of
from serve.config import SubtitleConfig, SubtitleUse
from serve.indexing.pipeline import index, reindex
from serve.settings import Settings
from serve.values import IndexOutcome
from support.fakes import SilentProgress, ToneTranscriber, use_fakes, write_scenes
from support.media import Captions, Track, times, write_media

SETTINGS = Settings(workers=1, decode=DecodeConfig())
ENGLISH = [(1.0, 2.0, "Where are you going tonight, my friend?"), (9.0, 10.0, "To the market, for bread and milk.")]
GERMAN = [(1.0, 2.0, "Wohin gehst du heute Nacht, mein Freund?"), (9.0, 10.0, "Zum Markt, für Brot und frische Milch.")]
HEARD = [(1.0, WordSource.SPEECH), (6.0, WordSource.SPEECH)]
SAID = [(1.0, WordSource.SIDECAR), (9.0, WordSource.SIDECAR)]


@pytest.fixture(autouse=True)
def english_model(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(ToneTranscriber, "is_multilingual", False)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A film of 12 s in which something is said at 1 s and at 6 s."""
    return write_scenes(tmp_path / "film.mp4", [("red", 12)], [(440, 1.0), (440, 6.0)])


def srt(lines: list[tuple[float, float, str]]) -> str:
    def clock(seconds: float) -> str:
        return f"00:{int(seconds // 60):02}:{int(seconds % 60):02},{round(seconds % 1 * 1000):03}"

    return "".join(f"{n}\n{clock(a)} --> {clock(b)}\n{text}\n\n" for n, (a, b, text) in enumerate(lines, start=1))


def run(film: Path, use: SubtitleUse = "prefer") -> IndexOutcome:
    settings = replace(SETTINGS, subtitles=SubtitleConfig(use=use))
    [outcome] = index([str(film)], film.parent / "data", settings, progress=SilentProgress())
    assert outcome.error is None
    return outcome


def words(film: Path) -> list[Utterance]:
    with Catalog.open_reader(film.parent / "data") as catalog:
        [video] = catalog.videos()
        return catalog.utterances(video.row)


def places(film: Path) -> list[tuple[float, WordSource]]:
    return [(round(one.start_seconds, 1), one.source) for one in words(film)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "expected"),
    [("prefer", sorted([SAID[0], HEARD[1], SAID[1]])), ("add", sorted([*HEARD, *SAID])), ("ignore", HEARD)],
)
def test_subtitles_are_preferred_added_or_ignored(
    film: Path, use: SubtitleUse, expected: list[tuple[float, WordSource]]
) -> None:
    film.with_suffix(".en.srt").write_text(srt(ENGLISH))
    assert run(film, use).utterances == len(expected)
    assert sorted(places(film)) == expected


@pytest.mark.slow
def test_words_of_subtitles_share_their_time_and_are_found(film: Path) -> None:
    film.with_suffix(".en.srt").write_text(srt(ENGLISH))
    run(film)
    said = words(film)[0]
    assert (said.text, said.language) == (ENGLISH[0][2], "en")
    assert [word.text for word in said.words] == ENGLISH[0][2].split()
    assert (said.words[0].start_seconds, said.words[-1].end_seconds) == (1.0, 2.0)
    with Catalog.open_reader(film.parent / "data") as catalog:
        assert len(catalog.match_words(["market"], limit=5)) == 1
        assert subtitles_of(catalog, catalog.videos()[0].row).name == "film.en.srt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lines", "is_taken"),
    [
        ("film.srt", ENGLISH, True), ("film.srt", GERMAN, False), ("film.de.srt", ENGLISH, False),
        ("film.en.commentary.srt", ENGLISH, False), ("film.en.forced.srt", ENGLISH[:1], True),
    ],
)  # fmt: skip
def test_only_subtitles_in_the_language_of_the_library_are_taken(
    film: Path, name: str, lines: list[tuple[float, float, str]], is_taken: bool
) -> None:
    (film.parent / name).write_text(srt(lines))
    run(film)
    assert any(source == WordSource.SIDECAR for _, source in places(film)) == is_taken
    assert (6.0, WordSource.SPEECH) in places(film)


@pytest.mark.slow
def test_of_many_tracks_the_whole_one_in_the_right_language_is_taken_and_a_file_comes_before(tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    captions = [
        Captions(lines=GERMAN, language="deu", disposition=Disposition.default),
        Captions(lines=ENGLISH[:1], disposition=Disposition.forced),
        Captions(lines=ENGLISH, title="Commentary"),
        Captions(lines=[(start, end, f"JOHN: {text}") for start, end, text in ENGLISH], title="English SDH"),
        Captions(lines=ENGLISH),
    ]
    video = Track(codec="mpeg4", times=times(24, 2), width=64, height=48)
    write_media(film, format="matroska", video=video, captions=captions)
    assert run(film).warnings == ()
    assert [(one.text, one.source) for one in words(film)] == [(text, WordSource.TRACK) for _, _, text in ENGLISH]
    film.with_suffix(".en.srt").write_text(srt(ENGLISH[:1]))
    run(film)
    assert [(one.text, one.source) for one in words(film)] == [(ENGLISH[0][2], WordSource.SIDECAR)]


@pytest.mark.slow
def test_a_subtitle_file_that_comes_changes_or_goes_is_noticed(film: Path) -> None:
    run(film)
    assert (run(film).status, places(film)) == ("unchanged", HEARD)
    beside = film.with_suffix(".en.srt")
    beside.write_text(srt(ENGLISH))
    first = run(film)
    assert (first.status, first.is_new_version) == ("indexed", False)
    assert run(film).status == "unchanged"
    beside.write_text(srt([(1.0, 2.0, "Something else is said here")]))
    changed = run(film)
    assert (changed.status, changed.video_id) == ("indexed", first.video_id)
    assert words(film)[0].text == "Something else is said here"
    [again] = reindex(film.parent / "data", SETTINGS, progress=SilentProgress())
    assert (again.status, words(film)[0].source) == ("indexed", WordSource.SIDECAR)
    assert run(film).status == "unchanged"
    beside.unlink()
    assert (run(film).status, places(film)) == ("indexed", HEARD)


@pytest.mark.slow
def test_the_subtitles_of_another_copy_do_not_make_a_video_change_to_and_fro(film: Path, tmp_path: Path) -> None:
    run(film)
    (tmp_path / "copies").mkdir()
    copy = tmp_path / "copies" / "film.mp4"
    copy.write_bytes(film.read_bytes())
    copy.with_suffix(".en.srt").write_text(srt(ENGLISH))
    [outcome] = index([str(copy)], tmp_path / "data", SETTINGS, progress=SilentProgress())
    assert (outcome.status, places(film)) == ("unchanged", HEARD)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (srt([*ENGLISH, (5.0, 3.0, "Backward"), (20.0, 21.0, "Behind the end")]),
         "2 lines of the subtitles film.en.srt are left out: wrong times"),
        (srt([(100.0, 101.0, "Another film"), (102.0, 103.0, "that is longer")]),
         "the subtitles film.en.srt were left out: they are another video's, as most begin behind its end"),
        (srt([(5.0, 3.0, "Backward")]), "the subtitles film.en.srt were left out: all its times are wrong"),
        ("", "the subtitles film.en.srt were left out: it has no subtitles"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_subtitles_is_a_warning(film: Path, content: str, warning: str) -> None:
    film.with_suffix(".en.srt").write_text(content)
    assert run(film).warnings == (warning,)


@pytest.mark.slow
def test_subtitles_that_are_pictures_are_named(tmp_path: Path, shared: Path) -> None:
    film = tmp_path / "film.mkv"
    film.write_bytes((shared / "videos" / "files" / "media__sample_with_vobsub_434e7e.mkv").read_bytes())
    assert "its subtitles are pictures (dvd_subtitle), which have no text: they are not indexed" in run(film).warnings
