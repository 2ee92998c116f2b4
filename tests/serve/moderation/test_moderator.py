"""The moderator: events are recorded once, do not depend on how a video comes, and follow the policies."""

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.codec.events import event_message, event_value
from serve.event import Event, EventFilter, EventReview, EventState, ReviewState
from serve.indexing.pipeline import index
from serve.live.live_rows import LiveRows
from serve.moderation.active_policies import ABSENCE_SECONDS, COPY_NAME, ActivePolicies
from serve.moderation.moderator import RETRY_SECONDS, Moderator
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Video
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.sample_live import camera
from support.waiting import wait_until

pytestmark = pytest.mark.slow

SETTINGS = Settings(workers=1)
RED = {"id": "red", "label": "Red", "parents": ["Colours"], "shows": ["red"], "min_seconds": 2, "cooldown_seconds": 0}
FIRE = {"id": "fire", "label": "Fire", "says": ["on fire"], "cooldown_seconds": 5, "action": "alert"}
BAD = "version: '2'\npolicies:\n  - id: x\n    label: X\n    shows: []\n"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("green", 3), ("red", 4), ("green", 3)])
    list(index([str(film)], tmp_path / "data", SETTINGS, progress=SilentProgress()))
    return tmp_path / "data"


@pytest.fixture
def library(data: Path) -> Iterator[Library]:
    with Library.open(data, SETTINGS) as opened:
        yield opened


@pytest.fixture
def editor(data: Path) -> Iterator[Catalog]:
    with Catalog.open_editor(data) as opened:
        yield opened


@pytest.fixture
def live(library: Library, data: Path) -> Iterator[LiveRows]:
    with Catalog.open_editor(data) as opened:
        yield LiveRows(opened, library.engine.fingerprint)


def write(path: Path, *policies: dict[str, object], version: str = "1") -> Path:
    path.write_text(json.dumps({"version": version, "policies": policies}))  # JSON is YAML
    return path


class Moderated:
    """A moderator over a library, and the changes of events that it wrote last."""

    def __init__(self, library: Library, editor: Catalog, path: Path) -> None:
        self.library, self.editor, self.path = library, editor, path
        self.written: list[Event] = []
        self.now = 0.0  # seconds
        self.retry_seconds = RETRY_SECONDS
        self.restart()

    def restart(self) -> None:
        """Make the moderator that another process would have."""
        policies = ActivePolicies(self.path, self.path.with_name(COPY_NAME), lambda: self.now)
        self.moderator = Moderator(
            self.library.engine, self.editor, policies, on_events=self.written.extend, retry_seconds=self.retry_seconds
        )

    def score_due_videos(self) -> list[tuple[str, str, float, float, int]]:
        """Score what is due; return the changes that were written."""
        self.written.clear()
        self.library.engine.refresh()
        self.moderator.score_due_videos()
        return [
            (one.policy_id, one.state.value, one.start_seconds, one.end_seconds, one.revision) for one in self.written
        ]

    def events(self, video_id: str) -> list[Event]:
        return EventLog(self.editor).page(EventFilter(video_ids=(video_id,)), None, 100)


@pytest.fixture
def moderated(library: Library, editor: Catalog, tmp_path: Path) -> Moderated:
    return Moderated(library, editor, write(tmp_path / "policies.yaml", RED, FIRE))


# ---- files


def test_events_of_a_file_are_recorded_once(moderated: Moderated) -> None:
    assert moderated.score_due_videos() == [("red", "OPENED", 3.0, 5.0, 0), ("red", "CLOSED", 3.0, 7.0, 1)]
    assert moderated.score_due_videos() == []
    moderated.restart()
    assert moderated.score_due_videos() == []

    (event,) = moderated.events(moderated.library.videos()[0].video_id)
    assert (event.label, event.parents, event.channel, event.policy_version) == ("Red", ("Colours",), "visual", "1")
    assert event.best_frame_seconds is not None
    assert 3 <= event.best_frame_seconds < 7
    assert event.fingerprint == moderated.library.engine.fingerprint


def test_a_review_stays_when_newer_policies_find_the_event_too(moderated: Moderated) -> None:
    moderated.score_due_videos()
    log, (event,) = EventLog(moderated.editor), moderated.events(moderated.library.videos()[0].video_id)
    review = EventReview(state=ReviewState.DISMISSED, note="paint", reviewer="anna", review_time=5.0)
    log.review(event.event_id, review, lambda collection: None)
    write(moderated.path, {**RED, "label": "Crimson"}, version="2")
    assert moderated.score_due_videos() == [("red", "CLOSED", 3.0, 7.0, 3)]
    assert [(each.label, each.review) for each in moderated.written] == [("Crimson", review)]
    write(moderated.path, {**RED, "label": "Crimson"}, FIRE, version="2")
    assert moderated.score_due_videos() == []  # a review alone makes no event another one


def test_the_end_of_a_video_closes_its_events(library: Library, live: LiveRows, moderated: Moderated) -> None:
    moderated.score_due_videos()
    live.apply([camera(library, 0, seen=dict.fromkeys(range(12, 16), "red"), is_last=True)], {})

    assert moderated.score_due_videos() == [("red", "OPENED", 12.0, 14.0, 0), ("red", "CLOSED", 12.0, 16.0, 1)]


# ---- live


SEEN = dict.fromkeys([*range(5, 9), *range(20, 34)], "red")
SAID = {9: "it is on fire", 26: "nothing", 41: "the bed is on", 43: "fire now"}


def test_a_sign_in_a_live_video_is_one_event_of_its_own_channel(
    library: Library, live: LiveRows, editor: Catalog, tmp_path: Path
) -> None:
    exit_sign = {"id": "exit", "label": "Exit", "reads": ["fire exit"], "cooldown_seconds": 1}
    moderated = Moderated(library, editor, write(tmp_path / "policies.yaml", exit_sign))
    moderated.score_due_videos()
    written, found = {1: "Fire exit", 2: "Fire exit", 5: "FIRE EXIT"}, []
    for n in range(7):
        live.apply([camera(library, n, written=written, heard={9: "fire exit"}, is_last=n == 6)], {})
        found += moderated.score_due_videos()
        moderated.restart()
    assert found == [
        ("exit", "OPENED", 16.0, 24.0, 0), ("exit", "UPDATED", 16.0, 32.0, 1), ("exit", "CLOSED", 16.0, 32.0, 2),
        ("exit", "OPENED", 48.0, 56.0, 0), ("exit", "CLOSED", 48.0, 56.0, 1),
    ]  # fmt: skip
    first, _ = moderated.events("cam")
    assert (first.channel, first.best_frame_seconds) == ("text", None)
    assert [word.text for word in first.matched_words] == ["Fire", "exit", "Fire", "exit"]
    assert event_value(event_message(first)) == first


def test_a_live_video_has_the_same_events_in_any_batches(
    library: Library, live: LiveRows, moderated: Moderated
) -> None:
    moderated.score_due_videos()
    step_by_step = []
    for n in range(7):
        for known in range(8 * n + 9, 8 * n + 17, 3):
            live.apply([camera(library, n, seen=SEEN, heard=SAID, is_final=False, known_seconds=known)], {})
            step_by_step += moderated.score_due_videos()
            if known % 2:
                moderated.restart()
        live.apply([camera(library, n, seen=SEEN, heard=SAID, is_last=n == 6)], {})
        step_by_step += moderated.score_due_videos()
    live.apply([camera(library, n, seen=SEEN, heard=SAID, is_last=n == 6, video_id="other") for n in range(7)], {})
    at_once = moderated.score_due_videos()

    assert sorted(step_by_step) == sorted(at_once)
    assert [one for one in at_once if one[0] == "red"] == [
        ("red", "OPENED", 5.0, 7.0, 0),
        ("red", "CLOSED", 5.0, 9.0, 1),
        ("red", "OPENED", 20.0, 22.0, 0),
        ("red", "UPDATED", 20.0, 32.0, 1),
        ("red", "CLOSED", 20.0, 34.0, 2),
    ]
    assert [one[1:3] for one in at_once if one[0] == "fire"] == [
        ("OPENED", 9.5), ("CLOSED", 9.5), ("OPENED", 41.75), ("CLOSED", 41.75),
    ]  # fmt: skip
    words = [" ".join(word.text for word in one.matched_words) for one in moderated.events("cam") if one.matched_words]
    assert words == ["on fire", "on fire"]
    assert {one.event_id for one in moderated.events("cam")}.isdisjoint(
        one.event_id for one in moderated.events("other")
    )


def test_an_open_event_is_recorded_before_it_ends(library: Library, live: LiveRows, moderated: Moderated) -> None:
    moderated.score_due_videos()
    live.apply([camera(library, 0, seen=SEEN, is_final=False, known_seconds=8)], {})

    assert moderated.score_due_videos() == [("red", "OPENED", 5.0, 7.0, 0)]
    (event,) = moderated.events("cam")
    assert event.state is EventState.OPENED
    assert event.recorded_time == pytest.approx(1_700_000_005.0)


def test_words_that_are_not_final_are_not_scored(library: Library, live: LiveRows, moderated: Moderated) -> None:
    moderated.score_due_videos()
    live.apply([camera(library, 0, heard=SAID, is_final=True), camera(library, 1, heard=SAID, is_final=False)], {})
    assert [one[:2] for one in moderated.score_due_videos()] == [("fire", "OPENED")]
    live.apply([camera(library, 1, heard=SAID, is_final=True)], {})
    assert [one[:2] for one in moderated.score_due_videos()] == [("fire", "CLOSED")]


def test_changes_of_a_failed_transaction_are_found_again(
    library: Library, live: LiveRows, moderated: Moderated, monkeypatch: pytest.MonkeyPatch
) -> None:
    moderated.score_due_videos()
    live.apply([camera(library, 0, seen=SEEN)], {})
    with monkeypatch.context() as broken:
        broken.setattr(EventLog, "record", lambda *_: 1 / 0)
        assert moderated.score_due_videos() == []

    moderated.restart()
    assert [one[:2] for one in moderated.score_due_videos()] == [("red", "OPENED"), ("red", "CLOSED")]


def test_a_video_that_cannot_be_scored_does_not_block_the_others(
    library: Library,
    live: LiveRows,
    moderated: Moderated,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def score(self: Moderator, video: Video, version: tuple[object, ...]) -> None:
        if video.video_id == "bad":
            raise ValueError("a damaged video")
        works(self, video, version)

    moderated.retry_seconds = 0.0
    moderated.restart()
    moderated.score_due_videos()
    for name in ("one", "bad", "two"):
        live.apply([camera(library, 0, seen=SEEN, video_id=name)], {})
    works = Moderator.score
    with monkeypatch.context() as broken:
        broken.setattr(Moderator, "score", score)
        assert len(moderated.score_due_videos()) == 4  # of the two others
        for _ in range(3):
            assert moderated.score_due_videos() == []
    assert caplog.text.count("video not scored video=default/bad") == 1
    assert [one[:2] for one in moderated.score_due_videos()] == [("red", "OPENED"), ("red", "CLOSED")]
    assert moderated.moderator.failed == {}


def test_two_moderators_of_a_library_record_each_event_once(
    library: Library, live: LiveRows, moderated: Moderated, data: Path
) -> None:
    moderated.score_due_videos()
    with Catalog.open_editor(data) as other:
        second = Moderated(library, other, moderated.path)
        second.score_due_videos()
        live.apply([camera(library, 0, seen=SEEN)], {})
        assert len(moderated.score_due_videos()) == 2
        assert second.score_due_videos() == []
        live.apply([camera(library, 1, seen=SEEN), camera(library, 2, seen=SEEN)], {})
        assert [one[:3] for one in second.score_due_videos()] == [("red", "OPENED", 20.0)]
        assert moderated.score_due_videos() == []  # it finds the same, and that it was written
        live.apply([camera(library, n, seen=SEEN, is_last=n == 4) for n in (3, 4)], {})
        assert [one[1:3] for one in moderated.score_due_videos()] == [("UPDATED", 20.0), ("CLOSED", 20.0)]


# ---- what changes


def test_other_policies_score_the_stored_videos_anew(moderated: Moderated) -> None:
    moderated.score_due_videos()
    write(moderated.path, {**RED, "label": "Reddish"}, {**RED, "id": "green", "shows": ["green"]}, version="2")

    assert sorted(moderated.score_due_videos()) == [
        ("green", "CLOSED", 0.0, 3.0, 1),
        ("green", "CLOSED", 7.0, 10.0, 1),
        ("green", "OPENED", 0.0, 2.0, 0),
        ("green", "OPENED", 7.0, 9.0, 0),
        ("red", "CLOSED", 3.0, 7.0, 2),
    ]
    video_id = moderated.library.videos()[0].video_id
    assert {(one.label, one.policy_version) for one in moderated.events(video_id)} == {("Reddish", "2"), ("Red", "2")}


def test_events_that_other_policies_do_not_find_are_withdrawn(moderated: Moderated) -> None:
    moderated.score_due_videos()
    write(moderated.path, FIRE)
    moderated.score_due_videos()

    assert moderated.events(moderated.library.videos()[0].video_id) == []
    (change,) = moderated.moderator.log.changes(0, 10)
    assert (change.event.state, change.event.policy_id, change.event.revision) == (EventState.WITHDRAWN, "red", 2)
    write(moderated.path, RED)
    assert [one[1::3] for one in moderated.score_due_videos()] == [
        ("OPENED", 3),
        ("CLOSED", 4),
    ]  # state, revision: goes on


def test_without_policies_nothing_is_found_and_stored(moderated: Moderated) -> None:
    moderated.path.unlink()
    assert moderated.score_due_videos() == []
    assert not moderated.editor.select("SELECT 1 FROM screenings")


@pytest.mark.parametrize("content", [None, BAD])
def test_only_policies_that_were_there_end(
    moderated: Moderated, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    caplog.set_level("INFO")
    moderated.path.unlink()
    if content is not None:
        moderated.path.write_text(content)
        moderated.score_due_videos()
        moderated.path.unlink()
    moderated.score_due_videos()
    moderated.now += ABSENCE_SECONDS
    moderated.score_due_videos()
    ends = [message for message in caplog.messages if message == "policies ended: their file was removed"]
    assert len(ends) == (content is not None)


def test_removing_the_policy_file_withdraws_its_events(moderated: Moderated, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    moderated.score_due_videos()
    moderated.path.unlink()
    moderated.score_due_videos()
    moderated.now += ABSENCE_SECONDS
    moderated.score_due_videos()
    assert caplog.messages[-1] == "policies ended: their file was removed"
    assert moderated.events(moderated.library.videos()[0].video_id) == []
    moderated.path.write_text(BAD)
    moderated.restart()
    moderated.score_due_videos()
    assert moderated.moderator.policies.policies is None


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_file_that_is_away_for_a_moment_withdraws_nothing(moderated: Moderated, is_restarted: bool) -> None:
    moderated.score_due_videos()
    away = moderated.path.rename(moderated.path.with_suffix(".old"))  # as editors save
    if is_restarted:
        moderated.restart()
    assert moderated.score_due_videos() == []
    moderated.now += ABSENCE_SECONDS / 2
    assert moderated.score_due_videos() == []
    away.rename(moderated.path)
    assert moderated.score_due_videos() == []
    moderated.now += ABSENCE_SECONDS
    assert moderated.score_due_videos() == []
    assert len(moderated.events(moderated.library.videos()[0].video_id)) == 1


@pytest.mark.parametrize(("module", "name"), [(Path, "stat"), (os, "open")])
def test_a_file_that_cannot_be_read_changes_nothing_and_is_read_again(
    moderated: Moderated, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    moderated.score_due_videos()
    write(moderated.path, RED, version="2")

    def fails(path: Path, *arguments: object, **named: object) -> object:
        if path == moderated.path:
            raise OSError(errno.EIO, "Input/output error")
        return works(path, *arguments, **named)

    works = getattr(module, name)
    with monkeypatch.context() as broken:
        broken.setattr(module, name, fails)
        assert moderated.score_due_videos() == []
        moderated.now += ABSENCE_SECONDS
        assert moderated.score_due_videos() == []
    assert "Input/output error" in str(moderated.moderator.policies.mistake)
    assert [one[:2] for one in moderated.score_due_videos()] == [("red", "CLOSED")]  # of version 2 now
    assert moderated.moderator.policies.mistake is None
    with monkeypatch.context() as broken:
        works = Path.stat
        broken.setattr(Path, "stat", fails)
        moderated.score_due_videos()
    moderated.score_due_videos()
    assert moderated.moderator.policies.mistake is None  # although the file is the same


def test_a_bad_file_leaves_the_policies_active(moderated: Moderated, caplog: pytest.LogCaptureFixture) -> None:
    moderated.score_due_videos()
    moderated.path.write_text(BAD)

    assert moderated.score_due_videos() == []
    assert len(moderated.events(moderated.library.videos()[0].video_id)) == 1
    mistake = moderated.moderator.policies.mistake
    assert mistake is not None
    assert (mistake.line, mistake.field) == (5, "policies[0].shows")
    assert "version 1 stays active" in caplog.text


def test_a_bad_file_leaves_the_policies_active_through_a_restart(
    library: Library, live: LiveRows, moderated: Moderated
) -> None:
    moderated.score_due_videos()
    moderated.path.write_text(BAD)
    moderated.restart()

    assert moderated.score_due_videos() == []
    assert moderated.moderator.policies.mistake is not None
    live.apply([camera(library, 0, seen=SEEN)], {})
    assert [one[:2] for one in moderated.score_due_videos()] == [("red", "OPENED"), ("red", "CLOSED")]


def test_while_the_policies_are_unknown_nothing_is_withdrawn(
    library: Library, live: LiveRows, moderated: Moderated
) -> None:
    moderated.score_due_videos()
    moderated.path.write_text(BAD)
    moderated.path.with_name(COPY_NAME).write_text("damaged")
    moderated.restart()
    live.apply([camera(library, 0, seen=SEEN)], {})

    assert moderated.score_due_videos() == []
    assert len(moderated.events(library.videos()[0].video_id)) == 1
    write(moderated.path, RED, FIRE)
    assert [one[:2] for one in moderated.score_due_videos()] == [("red", "OPENED"), ("red", "CLOSED")]


def test_policies_apply_to_their_collections(library: Library, editor: Catalog, tmp_path: Path) -> None:
    path = write(tmp_path / "policies.yaml", {**RED, "collections": ["cams"]})
    assert Moderated(library, editor, path).score_due_videos() == []


def test_the_events_of_a_deleted_video_are_withdrawn_without_their_words(
    library: Library, live: LiveRows, moderated: Moderated
) -> None:
    live.apply([camera(library, 0, heard=SAID, is_last=True)], {})
    moderated.score_due_videos()
    before = moderated.moderator.log.last_sequence()
    live.delete("default", "cam", time.time())

    (change,) = moderated.moderator.log.changes(before, 10)
    assert (change.event.state, change.event.policy_id) == (EventState.WITHDRAWN, "fire")
    assert change.event.matched_words == ()
    assert "on fire" not in str(moderated.editor.select("SELECT body FROM event_changes"))
    assert moderated.events("cam") == []


def test_the_thread_scores_new_segments(library: Library, live: LiveRows, moderated: Moderated) -> None:
    moderated.moderator.start()
    try:
        live.apply([camera(library, 0, seen=SEEN)], {})
        library.engine.refresh()
        moderated.moderator.wake()
        wait_until(lambda: len(moderated.written) == 4)
    finally:
        moderated.moderator.stop()
    assert len(moderated.written) == 4  # two of the film
