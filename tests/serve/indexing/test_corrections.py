"""Imported transcripts: they replace the words of a video, and stay until it is deleted."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from encoders.values import Utterance, WordSource
from ingest.config import DecodeConfig
from ingest.errors import SourceError
from serve.catalog.catalog import Catalog
from serve.catalog.speech.imports import import_of
from serve.errors import TranscriptNotImported, VideoNotFound
from serve.indexing.corrections import import_transcript
from serve.indexing.pipeline import delete, index, reindex
from serve.settings import Settings
from serve.values import IndexOutcome, Video
from support.fakes import SilentProgress, use_fakes, write_scenes

SETTINGS = Settings(workers=1, decode=DecodeConfig())
RIGHT = (
    "1\n00:00:01,000 --> 00:00:02,500\nWhat was really said in Lisbon.\n\n2\n00:00:07,000 --> 00:00:08,000\nAnd then?\n"
)
WORDS = [(1.0, "What was really said in Lisbon."), (7.0, "And then?")]


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """An indexed film of 12 s in which something is said at 1 s and at 6 s, and its corrected transcript beside."""
    (tmp_path / "right.srt").write_text(RIGHT)
    film = write_scenes(tmp_path / "film.mp4", [("red", 6), ("blue", 6)], [(440, 1.0), (440, 6.0)])
    run(film)
    return film


def run(film: Path) -> IndexOutcome:
    [outcome] = index([str(film)], film.parent / "data", SETTINGS, progress=SilentProgress())
    assert outcome.error is None
    return outcome


def only_video(film: Path) -> tuple[Video, list[Utterance]]:
    with Catalog.open_reader(film.parent / "data") as catalog:
        [video] = catalog.videos()
        return video, catalog.utterances(video.row)


def said(film: Path) -> list[tuple[float, str]]:
    return [(round(one.start_seconds, 1), one.text) for one in only_video(film)[1]]


def correct(film: Path, name: str = "right.srt") -> Video:
    return import_transcript(film.parent / "data", SETTINGS, only_video(film)[0].video_id, film.parent / name)[0]


@pytest.mark.slow
def test_imported_words_replace_all_others_and_nothing_else_changes(film: Path) -> None:
    before, _ = only_video(film)
    video = correct(film)
    assert said(film) == WORDS
    assert {one.source for one in only_video(film)[1]} == {WordSource.IMPORT}
    same = {"row": 0, "indexed_time": 0.0, "utterance_count": 0}
    assert replace(video, **same) == replace(before, **same)
    with Catalog.open_reader(film.parent / "data") as catalog:
        assert len(catalog.match_words(["lisbon"], limit=5)) == 1
        assert catalog.match_words(["paris"], limit=5) == []
        assert len(catalog.frames(video.row).pts_seconds) == video.frame_count
        assert catalog.thumbnail(video.row, 3.0) is not None
        assert catalog.traits(video.row) is not None
    again = film.parent / "second.vtt"
    again.write_text("WEBVTT\n\n00:03.000 --> 00:04.000\nOnly this.\n")
    correct(film, "second.vtt")
    assert said(film) == [(3.0, "Only this.")]


@pytest.mark.slow
def test_imported_words_stay_when_a_video_is_indexed_again_and_go_with_it(film: Path) -> None:
    correct(film)
    assert run(film).status == "unchanged"
    [outcome] = reindex(film.parent / "data", SETTINGS, progress=SilentProgress())
    assert (outcome.status, said(film)) == ("indexed", WORDS)
    [outcome] = reindex(film.parent / "data", SETTINGS, progress=SilentProgress())
    assert (outcome.status, said(film)) == ("indexed", WORDS)
    film.with_suffix(".en.srt").write_text(RIGHT.replace("Lisbon", "Madrid"))
    assert (run(film).status, said(film)) == ("indexed", WORDS)
    write_scenes(film, [("red", 6), ("blue", 6)], [(440, 2.0)], salt=1)
    outcome = run(film)
    assert (outcome.status, outcome.warnings, said(film)) == ("indexed", (), WORDS)
    delete(film.parent / "data", [outcome.video_id or ""])
    film.with_suffix(".en.srt").unlink()
    run(film)
    assert said(film) == [(2.0, "Paris is lovely.")]
    with sqlite3.connect(film.parent / "data" / "catalog.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM imported_transcripts").fetchone() == (0,)
    connection.close()


@pytest.mark.slow
def test_a_new_version_of_another_length_loses_them_with_a_warning(film: Path) -> None:
    correct(film)
    write_scenes(film, [("red", 4)], [(440, 2.0)])
    outcome = run(film)
    assert said(film) == [(2.0, "Paris is lovely.")]
    assert outcome.warnings == (
        "the imported transcript right.srt was left out, as the new version of the file has another length",
    )
    video, _ = only_video(film)
    with Catalog.open_reader(film.parent / "data") as catalog:
        assert import_of(catalog, video.row) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.srt", "", "it has no subtitles"), ("a.srt", "\0" * 99, "it is no text"), ("a.docx", RIGHT, "film.srt"),
        ("missing.srt", None, "no such file"),
    ],
)  # fmt: skip
def test_a_file_without_words_changes_nothing(film: Path, name: str, content: str | None, reason: str) -> None:
    if content is not None:
        (film.parent / name).write_text(content)
    before = said(film)
    with pytest.raises(SourceError, match=reason):
        correct(film, name)
    assert said(film) == before


@pytest.mark.slow
def test_words_of_another_video_are_refused(film: Path) -> None:
    (film.parent / "other.srt").write_text(RIGHT.replace("00:00:", "00:20:"))
    with pytest.raises(TranscriptNotImported, match="another video's"):
        correct(film, "other.srt")
    with pytest.raises(VideoNotFound):
        import_transcript(film.parent / "data", SETTINGS, "unknown", film.parent / "right.srt")
