"""Reindexing: every video is encoded again, whatever happened to its file."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ingest.config import DecodeConfig
from serve.catalog.catalog import Catalog
from serve.catalog.outdated import COPY_NAME, FRESH_NAME, rebuild_outdated
from serve.errors import DataDirectoryInvalid
from serve.indexing.pipeline import delete, index, reindex
from serve.search.library import Library
from serve.settings import Settings
from serve.values import IndexOutcome, Query, Video
from serve.video_warnings import NOT_ENCODED
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.sample_catalog import write_outdated

SETTINGS = Settings(workers=2, decode=DecodeConfig(sampling="exact"))
UNREAD = NOT_ENCODED.text.partition("{")[0]


@pytest.fixture(autouse=True)
def exact_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    write_scenes(folder / "a.mp4", [("red", 6), ("blue", 6)], tones=[(440, 2.0)])
    write_scenes(folder / "b.mp4", [("green", 8)])
    return folder


@pytest.fixture
def data(films: Path, tmp_path: Path) -> Path:
    run(films, tmp_path / "data")
    return tmp_path / "data"


def run(source: Path, data: Path) -> dict[str, IndexOutcome]:
    outcomes = index([str(source)], data, SETTINGS, progress=SilentProgress())
    return {Path(outcome.uri).name: outcome for outcome in outcomes}


def run_again(data: Path) -> tuple[dict[str, IndexOutcome], list[str]]:
    """Reindex; return the outcomes by file, and the notes."""
    progress = SilentProgress()
    outcomes = {Path(outcome.uri).name: outcome for outcome in reindex(data, SETTINGS, progress=progress)}
    return outcomes, progress.notes


def use_other_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.fakes.WordSumEncoder.fingerprint", "another")


def listed(data: Path) -> dict[str, Video]:
    with Catalog.open_reader(data) as catalog:
        return {Path(video.uri).name: video for video in catalog.videos()}


def answering(data: Path, text: str = "red") -> set[str]:
    with Library.open(data, SETTINGS) as library:
        return {Path(video.uri).name for video in library.search(Query(text=text)).videos}


@pytest.mark.slow
def test_a_file_that_is_gone_keeps_its_video_listed_and_out_of_the_answers_of_other_encoders(
    films: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listed(data)
    (films / "a.mp4").rename(films / "away")
    use_other_encoders(monkeypatch)
    outcomes, notes = run_again(data)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {"a.mp4": "failed", "b.mp4": "indexed"}
    assert "no such file" in (outcomes["a.mp4"].error or "")
    assert "1 of 2 videos" in notes[-1]
    assert answering(data) == {"b.mp4"}
    assert answering(data, "Paris") == {"b.mp4"}  # nor by its words, which are still there
    a = listed(data)["a.mp4"]
    assert (a.video_id, a.is_searchable, listed(data)["b.mp4"].is_searchable) == (before["a.mp4"].video_id, False, True)
    assert [warning.startswith(UNREAD) for warning in a.warnings] == [True]
    assert "no question finds it" in a.warnings[0]
    with Catalog.open_reader(data) as catalog:
        assert [each.text for each in catalog.utterances(a.row)] == ["Paris is lovely."]
    outcomes, _ = run_again(data)  # again without it: one warning, not two
    assert len(listed(data)["a.mp4"].warnings) == 1

    (films / "away").rename(films / "elsewhere.mp4")  # it is back, at another place
    (outcome,) = run(films / "elsewhere.mp4", data).values()
    assert (outcome.status, outcome.video_id, outcome.warnings) == ("indexed", a.video_id, ())
    assert answering(data) == {"elsewhere.mp4", "b.mp4"}
    assert all(video.is_searchable for video in listed(data).values())


@pytest.mark.slow
def test_a_file_that_is_gone_still_answers_if_the_encoders_are_the_same(films: Path, data: Path) -> None:
    before = listed(data)
    (films / "a.mp4").rename(films / "away")
    outcomes, _ = run_again(data)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {"a.mp4": "failed", "b.mp4": "indexed"}
    after = listed(data)
    assert answering(data) == {"a.mp4", "b.mp4"}
    assert (after["a.mp4"].row, after["a.mp4"].is_searchable) == (before["a.mp4"].row, True)
    assert "its old index answers" in after["a.mp4"].warnings[0]
    assert after["b.mp4"].row > before["b.mp4"].row
    (films / "away").rename(films / "a.mp4")
    run_again(data)
    assert listed(data)["a.mp4"].warnings == ()


@pytest.mark.slow
def test_videos_kept_out_answer_again_with_their_old_encoders(
    films: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (films / "a.mp4").rename(films / "away")
    with monkeypatch.context() as patched:
        use_other_encoders(patched)
        run_again(data)
        assert answering(data) == {"b.mp4"}
    run_again(data)
    assert answering(data) == {"a.mp4", "b.mp4"}


@pytest.mark.slow
def test_a_library_whose_files_are_all_gone_stays_as_it_was(
    films: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films.rename(films.parent / "away")
    before = listed(data)
    with monkeypatch.context() as patched:
        use_other_encoders(patched)
        outcomes, notes = run_again(data)
    assert [outcome.status for outcome in outcomes.values()] == ["failed", "failed"]
    assert "stays as it was" in notes[-1]
    assert answering(data) == {"a.mp4", "b.mp4"}
    assert {name: video.row for name, video in listed(data).items()} == {n: video.row for n, video in before.items()}
    assert not (data / FRESH_NAME).exists()
    (films.parent / "away").rename(films)
    use_other_encoders(monkeypatch)
    assert [outcome.status for outcome in run_again(data)[0].values()] == ["indexed", "indexed"]


@pytest.mark.slow
def test_a_changed_file_gets_its_new_version(films: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listed(data)["a.mp4"]
    write_scenes(films / "a.mp4", [("yellow", 4)])
    use_other_encoders(monkeypatch)
    outcome = run_again(data)[0]["a.mp4"]
    assert (outcome.status, outcome.is_new_version, outcome.video_id) == ("indexed", True, before.video_id)
    after = listed(data)["a.mp4"]
    assert (after.frame_count, after.content_sha256 != before.content_sha256) == (4, True)
    assert run(films, data)["a.mp4"].status == "unchanged"


@pytest.mark.slow
def test_a_video_is_read_from_another_place_that_has_its_bytes(films: Path, data: Path) -> None:
    (films / "twin.mp4").write_bytes((films / "a.mp4").read_bytes())
    run(films, data)
    write_scenes(films / "a.mp4", [("yellow", 4)])  # and not indexed again
    outcomes, _ = run_again(data)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {"twin.mp4": "indexed", "b.mp4": "indexed"}
    (films / "twin.mp4").rename(films / "away")
    run(films / "a.mp4", data)
    assert sorted(listed(data)) == ["a.mp4", "b.mp4"]


@pytest.mark.slow
def test_an_upload_is_named_and_stays_listed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalog.open_editor(data) as catalog, catalog.editing() as edit:
        edit.execute("UPDATE videos SET uri = ? WHERE CAST(uri AS TEXT) LIKE '%a.mp4'", (b"upload:a.mp4",))
        edit.execute("DELETE FROM places")
    use_other_encoders(monkeypatch)
    outcomes, _ = run_again(data)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "upload:a.mp4": "failed",
        "b.mp4": "indexed",
    }
    assert "upload" in (outcomes["upload:a.mp4"].error or "")
    assert not listed(data)["upload:a.mp4"].is_searchable


@pytest.mark.slow
def test_a_url_whose_secrets_are_gone_is_not_asked_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "https://example.org/a.mp4?pin=REDACTED"
    with Catalog.open_editor(data) as catalog, catalog.editing() as edit:
        edit.execute("UPDATE videos SET uri = ? WHERE CAST(uri AS TEXT) LIKE '%a.mp4'", (uri.encode(),))
        edit.execute("DELETE FROM places")
    use_other_encoders(monkeypatch)
    outcomes, _ = run_again(data)
    name = Path(uri).name
    assert {each: outcome.status for each, outcome in outcomes.items()} == {name: "failed", "b.mp4": "indexed"}
    assert "secrets" in (outcomes[name].error or "")


@pytest.mark.slow
def test_a_stopped_reindex_goes_on_and_does_not_bring_back_what_was_deleted(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_other_encoders(monkeypatch)
    outcomes = reindex(data, SETTINGS, progress=SilentProgress())
    first = next(outcomes).video_id
    outcomes.close()  # type: ignore[attr-defined]
    assert first is not None
    delete(data, [first])
    assert [outcome.video_id for outcome in run_again(data)[0].values()] != [first]
    assert [video.video_id != first for video in listed(data).values()] == [True]


@pytest.mark.slow
def test_a_catalog_of_an_older_version_is_made_anew(films: Path, tmp_path: Path) -> None:
    data = tmp_path / "outdated"
    write_outdated(data, 5, {"first": films / "a.mp4", "second": films / "b.mp4"})
    write_outdated(data / FRESH_NAME, 5, {"half": films / "a.mp4"})  # the older program was killed in a reindexing
    films.rename(tmp_path / "away")
    outcomes, notes = run_again(data)
    assert [outcome.status for outcome in outcomes.values()] == ["failed", "failed"]
    assert "version 5" in notes[0]
    with Library.open(data, SETTINGS) as library, pytest.raises(DataDirectoryInvalid, match="run kinodex reindex"):
        library.search(Query(text="red"))
    (tmp_path / "away").rename(films)
    (films / "b.mp4").rename(films / "elsewhere.mp4")
    outcomes, _ = run_again(data)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {"a.mp4": "indexed", "b.mp4": "failed"}
    assert (data / COPY_NAME).exists()
    assert answering(data) == {"a.mp4"}
    assert {name: video.is_searchable for name, video in listed(data).items()} == {"a.mp4": True, "b.mp4": False}
    delete(data, ["second"])
    assert [outcome.status for outcome in run_again(data)[0].values()] == ["indexed"]
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == ["index"]
    assert not (data / COPY_NAME).exists()
    (video,) = listed(data).values()
    assert (video.video_id, video.collection, video.metadata, video.recorded_time, video.frame_count) == (
        "first", "films", {"camera": "7"}, 5.0, 13
    )  # fmt: skip
    assert video.warnings == ()


@pytest.mark.slow
def test_reindex_keeps_what_was_said_and_does_not_bring_back_what_is_deleted_meanwhile(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    b = run(films, data)["b.mp4"].video_id
    assert b is not None
    with Catalog.open_writer(data) as catalog, catalog.editing() as edit:
        edit.execute(
            "UPDATE videos SET video_id = 'named', metadata = '{\"camera\": \"7\"}', recorded_time = 5.0"
            " WHERE video_id != ?",
            (b,),
        )
    monkeypatch.setattr("support.fakes.WordSumEncoder.fingerprint", "another")
    outcomes = reindex(data, SETTINGS, progress=SilentProgress())
    next(outcomes)
    delete(data, [b])
    list(outcomes)
    with Catalog.open_reader(data) as catalog:
        (video,) = catalog.videos()
    assert (video.video_id, video.metadata, video.recorded_time) == ("named", {"camera": "7"}, 5.0)


@pytest.mark.slow
def test_a_video_of_an_older_version_can_be_indexed_before_reindex_has_ended(films: Path, tmp_path: Path) -> None:
    run(films / "a.mp4", tmp_path / "now")
    with Catalog.open_reader(tmp_path / "now") as catalog:
        (video,), space = catalog.videos(), catalog.space()
    assert space is not None
    write_outdated(tmp_path / "data", 5, {video.video_id: films / "a.mp4"})
    with closing(sqlite3.connect(tmp_path / "data" / "catalog.sqlite")) as connection, connection:
        connection.execute("UPDATE videos SET collection = 'default', fingerprint = ?", (space.fingerprint,))
    rebuild_outdated(tmp_path / "data")  # and the process is killed

    assert [outcome.status for outcome in run(films / "a.mp4", tmp_path / "data").values()] == ["indexed"]
    with Library.open(tmp_path / "data", SETTINGS) as library:
        assert [video.video_id for video in library.search(Query(text="red")).videos] == [video.video_id]
