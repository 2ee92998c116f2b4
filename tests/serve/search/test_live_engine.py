"""Questions to live videos: answers show the newest segments, the last revisions, and nothing that was deleted."""

import random
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.catalog.catalog import Catalog
from serve.cli.main import cli
from serve.config import Limit, Retention
from serve.indexing.pipeline import index, reindex
from serve.live.live_rows import LiveRows, Tombstone
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Filter, Moment, MomentReference, Query, Verdict
from support.fakes import COLOURS, SilentProgress, use_fakes, write_scenes
from support.sample_live import STARTED, camera
from support.waiting import HANG_SECONDS
from temporal.values import TimeSpan

SETTINGS = Settings(workers=1)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with one film, which tests copy."""
    folder = tmp_path_factory.mktemp("indexed")
    film = write_scenes(folder / "film.mp4", [("green", 8)], tones=[(880, 2.0)])
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_fakes(monkeypatch)
        list(index([str(film)], folder / "data", SETTINGS, progress=SilentProgress()))
    return folder / "data"


@pytest.fixture
def data(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_fakes(monkeypatch)
    return Path(shutil.copytree(indexed, tmp_path / "data"))


@pytest.fixture
def library(data: Path) -> Iterator[Library]:
    with Library.open(data, SETTINGS) as opened:
        yield opened


@pytest.fixture
def live(data: Path, library: Library) -> Iterator[LiveRows]:
    with Catalog.open_editor(data) as editor:
        yield LiveRows(editor, library.engine.fingerprint)


def ask_camera(library: Library, text: str, **changes: object) -> list[Moment]:
    found = library.moments(Query(text=text, filter=Filter(video_ids=("cam",)), **changes)).moments  # type: ignore[arg-type]
    return [one for one in found if one.verdict is not Verdict.NO_MATCH]


# ---- new, revised and deleted segments


def test_a_moment_is_found_at_once_and_becomes_final(library: Library, live: LiveRows) -> None:
    seen = dict.fromkeys(range(33, 37), "red")
    live.apply([camera(library, n, seen=seen) for n in range(3)], {})
    assert not ask_camera(library, "red", channel="visual")
    live.apply([camera(library, 3, seen=seen, is_final=False)], {})
    best = ask_camera(library, "red", channel="visual")[0]
    assert (best.start_seconds, best.end_seconds) == pytest.approx((33, 37), abs=1.1)
    assert (best.uri, best.final, best.recorded_time) == ("stream:default/cam", False, STARTED + best.start_seconds)
    early = library.moments(Query(text="blue", filter=Filter(video_ids=("cam",)))).moments
    assert all(one.final == (one.end_seconds <= 32.0) for one in early)
    live.apply([camera(library, 3, seen=seen)], {})
    assert ask_camera(library, "red", channel="visual")[0].final
    live.apply([camera(library, 4, seen=seen, is_final=False)], {})
    assert ask_camera(library, "red", channel="visual")[0].final  # still, as the watermark is behind it


def test_an_ended_stream_is_final_like_a_file(library: Library, live: LiveRows) -> None:
    live.apply([replace(camera(library, n, seen={9: "red"}), watermark_seconds=0.0) for n in range(2)], {})
    assert not ask_camera(library, "red")[0].final
    live.apply([replace(camera(library, 2, is_last=True), watermark_seconds=0.0)], {})
    assert ask_camera(library, "red")[0].final
    assert library.moments(Query(text="green", channel="visual")).moments[0].final  # a file


def test_words_are_found_at_their_time_after_late_revisions(library: Library, live: LiveRows) -> None:
    heard = {
        2: "Paris is lovely.",
        11: "London is foggy.",
        26: "the bridge to Sydney",
        28: "harbour is closed",
        41: "Tokyo never sleeps.",
    }
    live.apply([camera(library, n, is_final=False) for n in range(6)], {})
    assert not ask_camera(library, "when does the speaker mention London?", channel="speech")
    for n in (3, 0, 5, 1, 4, 2):  # transcribed in this order
        live.apply([camera(library, n, heard=heard)], {})
        library.engine.refresh()
    for text, second in (("London", 11), ("Tokyo", 41), ("Paris", 2)):
        best = ask_camera(library, f"when does the speaker mention {text}?")[0]
        assert best.start_seconds == second
        assert [word.text.strip(".") for word in best.matched_words] == [text]
        assert best.transcript == heard[second]
    best = ask_camera(library, "the bridge to Sydney harbour is closed", channel="speech")[0]
    assert (best.start_seconds, best.end_seconds) == (26.0, 29.5)  # across two segments
    assert "harbour" in [word.text for word in best.matched_words]
    rome = camera(library, 0, heard={2: heard[2], 11: "Rome was not built in a day"})
    live.apply([replace(rome, revision=99)], {})
    assert not ask_camera(library, "when does the speaker mention London?", channel="speech")
    assert ask_camera(library, "when does the speaker mention Rome?", channel="speech")[0].start_seconds == 11


def test_pruned_or_deleted_segments_leave_answers_and_later_pages(library: Library, live: LiveRows) -> None:
    heard = dict.fromkeys(range(2, 60, 8), "Paris is lovely.")
    live.apply([camera(library, n, seen=dict.fromkeys(range(0, 60, 15), "red"), heard=heard) for n in range(8)], {})
    engine = library.engine
    ranking = engine.rank_moments(Query(text="Paris", filter=Filter(video_ids=("cam",))))
    first, at = engine.page_of_moments(ranking, 0, 2)
    assert len(first) == 2
    assert live.prune(Retention(limits={"*": Limit(age_seconds=30)}), STARTED + 60, 100)
    assert min(one.start_seconds for one in ask_camera(library, "Paris", channel="speech")) >= 24
    assert min(one.start_seconds for one in ask_camera(library, "red", channel="visual")) >= 24
    engine.page_of_moments(ranking, at, 100)  # an older ranking can still be read
    (everything,) = library.moments(Query(text="yellow", channel="visual", limit=1)).moments
    assert everything is not None
    live.delete("default", "cam", STARTED + 1000)
    assert engine.page_of_moments(ranking, at, 100)[0] == ()
    assert not library.moments(Query(text="Paris", filter=Filter(video_ids=("cam",)))).moments


def test_a_stream_that_shows_one_thing_is_one_moment_from_its_first_frame(library: Library, live: LiveRows) -> None:
    live.apply([camera(library, n) for n in range(8)], {})
    live.prune(Retention(limits={"*": Limit(age_seconds=30)}), STARTED + 60, 100)
    best = library.moments(Query(text="blue", channel="visual", filter=Filter(video_ids=("cam",)))).moments[0]
    assert (best.start_seconds, best.end_seconds) == (40.0, 72.0)


def test_examples_exclusions_and_times_reach_live_videos(library: Library, live: LiveRows) -> None:
    seen = {**dict.fromkeys(range(20, 24), "red"), **dict.fromkeys(range(50, 54), "red")}
    live.apply([camera(library, n, seen=seen, heard={21: "Paris is lovely.", 51: "London is foggy."})
                for n in range(9)], {})  # fmt: skip
    like = MomentReference(video_id="cam", span=TimeSpan(start_seconds=20.0, end_seconds=24.0))
    found = [one for one in library.moments(Query(like=like, channel="visual")).moments if one.video_id == "cam"]
    assert found[0].start_seconds == pytest.approx(50, abs=1.1)
    only_late = Filter(recorded_from=STARTED + 40, recorded_until=STARTED + 1000)
    assert library.moments(Query(text="red", filter=only_late)).moments
    assert all(one.end_seconds > 40 for one in library.moments(Query(text="red", filter=only_late)).moments)
    assert not library.moments(Query(text="red", filter=Filter(recorded_until=STARTED - 1))).moments
    texts = {one.transcript for one in library.moments(Query(text="London", exclude_text="Paris")).moments
             if one.video_id == "cam" and one.speech_score is not None}  # fmt: skip
    assert "London is foggy." in texts
    assert "Paris is lovely." not in texts


# ---- the same as a new engine


@pytest.mark.slow
def test_answers_are_those_of_a_new_engine(library: Library, live: LiveRows, data: Path) -> None:
    choice = random.Random(5)
    texts = ("Paris is lovely.", "London is foggy.", "Tokyo never sleeps.")
    queries = [Query(text=text, limit=50) for text in ("red", "blue and yellow", "Paris", "who speaks of London?")]
    for step in range(25):
        video_id = choice.choice(["cam", "door"])
        start = choice.randrange(0, 90)
        seen = {at: choice.choice(list(COLOURS)) for at in range(8 * start, 8 * start + 24)}
        heard = {8 * start + 3: choice.choice(texts), 8 * start + 9: choice.choice(texts)}
        known = {"video_id": video_id, "seen": seen, "heard": heard, "is_final": choice.random() < 0.5}
        live.apply([camera(library, start + n, **known) for n in range(2)], {})  # type: ignore[arg-type]
        if step % 6 == 5:
            live.apply([Tombstone(segment_id=f"{video_id}/0/{start}", collection="default")], {})
            live.prune(Retention(limits={"*": Limit(age_seconds=200)}), STARTED + 8 * start, 3)
        if step % 4 == 3:
            with Library.open(data, SETTINGS) as another:
                for query in queries:
                    assert_same(library.moments(query).moments, another.moments(query).moments)


def assert_same(found: tuple[Moment, ...], expected: tuple[Moment, ...]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.video_id, one.start_seconds, one.end_seconds) == (
            other.video_id, other.start_seconds, other.end_seconds,
        )  # fmt: skip
        assert (one.transcript, one.final, one.matched_words) == (other.transcript, other.final, other.matched_words)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


@pytest.mark.slow
def test_threads_ask_while_streams_change(library: Library, live: LiveRows) -> None:
    stop = threading.Event()
    heard = {n: f"Paris number {n}" for n in range(2, 2000, 8)}
    live.apply([camera(library, n, heard=heard, seen={3: "red", 4: "red"}) for n in range(4)], {})

    def ask(n: int) -> int:
        count = 0
        while count == 0 or not stop.is_set():
            red = ask_camera(library, "red", channel="visual")[0]
            assert red.start_seconds < 6
            for one in ask_camera(library, "Paris number 10", channel="speech", limit=5):
                assert one.transcript.startswith("Paris number")
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, n) for n in range(4)]
        try:
            for n in range(4, 40):
                live.apply([camera(library, n, heard=heard, is_final=False)], {})
                live.apply([camera(library, max(4, n - 3), heard=heard)], {})
        finally:
            stop.set()
        assert all(one.result(HANG_SECONDS) for one in asking)


# ---- the command


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_lists_shows_and_deletes_live_videos(library: Library, live: LiveRows, data: Path) -> None:
    live.apply([camera(library, n, heard={2: "Paris is lovely."}) for n in range(3)], {})
    folder = ["--data", str(data)]
    listed = run("list", *folder)
    assert "cam" in listed
    assert "live" in listed
    shown = run("show", "cam", *folder)
    assert "stream:default/cam" in shown
    assert '"watermark_seconds":32.0' in run("show", "cam", "--json", *folder).replace(" ", "")
    assert run("transcript", "cam", *folder) == "[0:02] Paris is lovely.\n"
    assert "deleted cam" in run("delete", "cam", "--local", *folder)
    assert "cam" not in run("list", *folder)
    live.apply([camera(library, n) for n in range(3)], {})
    assert "cam" not in run("list", *folder)  # deleted segments do not come back


@pytest.mark.slow
def test_reindexing_reads_files_again_and_says_what_becomes_of_streams(
    library: Library, live: LiveRows, data: Path
) -> None:
    live.apply([camera(library, n) for n in range(3)], {("segments", 0): 3})
    notes: list[str] = []
    progress = SilentProgress()
    progress.note = notes.append  # type: ignore[method-assign]
    (outcome,) = reindex(data, SETTINGS, progress=progress)
    assert outcome.status == "indexed"
    assert any("live" in note for note in notes)
    assert {video.video_id for video in library.videos()} == {"cam", outcome.video_id}  # the same encoders
    assert ask_camera(library, "blue")
