"""The catalog beside other processes, killed ones among them, on full disks, and on files that are no catalog."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serve.catalog import schema
from serve.catalog.catalog import Catalog
from serve.catalog.sqlite import CATALOG_NAME, WriterLock
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid, DataDirectoryMissing, DiskFull
from serve.indexing.job import NewJob
from serve.indexing.jobs import JobQueue
from support import SUPPORT
from support.sample_catalog import check, frames, new_video, put_version, turn_back
from support.waiting import HANG_SECONDS

CHILD = SUPPORT / "catalog_child.py"


def child(job: str, directory: Path, stdin: int | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(CHILD), job, str(directory)], stdin=stdin, stdout=subprocess.PIPE, text=True
    )


def outcome(job: str, directory: Path) -> str:
    with child(job, directory) as process:
        out, _ = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0
    return out


# ---- one writer, many readers


@pytest.fixture
def long_busy_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make SQLite wait for locks for longer than any test may take."""
    monkeypatch.setattr("serve.catalog.sqlite.BUSY_TIMEOUT_SECONDS", 2 * HANG_SECONDS)


@pytest.mark.usefixtures("long_busy_timeout")
def test_a_second_writer_is_refused_at_once_with_the_writers_pid(tmp_path: Path) -> None:
    with child("hold", tmp_path) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            start = time.monotonic()
            with pytest.raises(DataDirectoryBusy) as raised:
                Catalog.open_writer(tmp_path)
            assert time.monotonic() - start < HANG_SECONDS  # it does not wait for the busy timeout
            assert raised.value.pid == process.pid
            Catalog.open_reader(tmp_path).close()
        finally:
            process.kill()
    assert (tmp_path / "lock").read_text() == f"{process.pid}\n"  # stale, and no obstacle
    Catalog.open_writer(tmp_path).close()


def test_a_second_writer_of_the_same_process_is_refused_too(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryBusy):
        Catalog.open_writer(tmp_path)
    catalog.close()
    catalog.close()  # harmless
    Catalog.open_writer(tmp_path).close()


@pytest.mark.usefixtures("long_busy_timeout")
def test_reading_never_waits_for_a_writer_in_the_middle_of_a_transaction(catalog: Catalog, reader: Catalog) -> None:
    put_version(catalog, "abc", 1)
    with catalog.writing() as write:
        write.execute("DELETE FROM videos")
        start = time.monotonic()
        assert check(reader) == {"abc": 1}
        with Catalog.open_reader(reader.directory) as another:
            assert check(another) == {"abc": 1}
        assert time.monotonic() - start < HANG_SECONDS  # it does not wait for the busy timeout


def test_an_editor_waits_for_a_transaction_and_says_so_when_it_takes_too_long(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_version(catalog, "abc", 1)
    monkeypatch.setattr("serve.catalog.sqlite.BUSY_TIMEOUT_SECONDS", 0.1)
    with Catalog.open_editor(tmp_path) as editor:
        with catalog.editing(), pytest.raises(DataDirectoryBusy):
            editor.delete("abc")
        editor.delete("abc")


@pytest.mark.slow
def test_threads_may_share_a_catalog(catalog: Catalog) -> None:
    failures: list[BaseException] = []

    def guarded(job: Callable[[], object]) -> None:
        try:
            for _ in range(10):
                job()
        except BaseException as error:
            failures.append(error)

    put_version(catalog, "abc", 1)
    jobs: list[Callable[[], object]] = [
        lambda: check_in_snapshot(catalog),
        lambda: put_version(catalog, "abc", 2),
        lambda: put_version(catalog, "xyz", 3),
    ]
    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert check(catalog) == {"abc": 2, "xyz": 3}


def check_in_snapshot(catalog: Catalog) -> None:
    with catalog.snapshot():
        check(catalog)


@pytest.mark.slow
def test_readers_see_before_or_after_while_another_process_writes(tmp_path: Path) -> None:
    with child("write", tmp_path) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            seen = set()
            with Catalog.open_reader(tmp_path) as reader:
                while len(seen) <= 20:
                    assert process.poll() is None
                    with reader.snapshot():
                        seen.add(tuple(sorted(check(reader).items())))
        finally:
            process.kill()


# ---- killed, full, damaged


@pytest.mark.slow
def test_no_sql_statement_is_a_bad_moment_to_die(tmp_path: Path) -> None:
    swept = dict(line.split() for line in outcome("sweep", tmp_path).splitlines())
    assert {"make", "replace_and_delete", "replace_all", "do_job"} == set(swept)
    assert all(int(count) > 20 for count in swept.values())


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_loses_only_what_it_had_not_finished(tmp_path: Path) -> None:
    moments = random.Random(20260801)
    finished: dict[str, int] = {}
    for _ in range(12):
        with child("write", tmp_path) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(1 + moments.randrange(4))]  # "ready" and some versions
            begin = time.monotonic()
            said.append(process.stdout.readline())
            time.sleep(moments.uniform(0, time.monotonic() - begin))  # a random moment of the next version
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().splitlines()
        finished.update((name, int(version)) for name, version in (line.split() for line in said if line.count(" ")))
        with Catalog.open_reader(tmp_path) as reader:
            found = check(reader)
        for name, version in finished.items():  # what was said to be finished is there, or its next version
            assert found[name] >= version
        with Catalog.open_writer(tmp_path) as writer:
            assert check(writer) == found
            assert writer.select("SELECT count(*) FROM videos WHERE state = 'PROCESSING'") == [(0,)]
            assert writer.select("PRAGMA integrity_check") == [("ok",)]
    assert len(finished) == 3


@pytest.mark.slow
def test_memory_and_log_stay_flat_over_hours_of_video(tmp_path: Path) -> None:
    grown_mebibytes, log_mebibytes = map(int, outcome("long_video", tmp_path).split())
    assert grown_mebibytes <= 8
    assert log_mebibytes <= 64


def test_a_full_disk_is_an_error_and_leaves_the_videos_before(catalog: Catalog) -> None:
    put_version(catalog, "abc", 1)
    ((pages,),) = catalog.select("PRAGMA page_count")
    catalog.select(f"PRAGMA max_page_count = {pages + 3}")
    row = catalog.begin(new_video("large"))
    with pytest.raises(DiskFull, match="the disk is full"):
        catalog.add_frames(row, frames(64, width=512), [bytes(4000)] * 64)
    assert check(catalog) == {"abc": 1}
    catalog.abandon(row)
    catalog.select("PRAGMA max_page_count = 1000000")
    put_version(catalog, "abc", 2)
    assert check(catalog) == {"abc": 2}


def test_a_file_that_may_not_grow_is_an_error_and_leaves_the_videos_before(tmp_path: Path) -> None:
    said = outcome("fill_disk", tmp_path).splitlines()
    assert said[-1] == "invalid: the disk is full"
    finished = {name: int(version) for name, version in (line.split() for line in said[1:-1])}
    with Catalog.open_writer(tmp_path) as catalog:
        assert check(catalog) == finished


def test_a_user_who_may_not_write_reads_what_others_write_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs two users: the child gives up its rights to write, and this process keeps them")
    directory = Path(tempfile.mkdtemp())  # pytest's own folders are closed to the user that the child becomes
    try:
        directory.chmod(0o755)
        # A library is its owner's only. As where a file system gives everybody the right to read, it is not here.
        monkeypatch.setattr("serve.catalog.catalog.make_library_private", lambda _: None)
        Catalog.open_writer(directory).close()
        (directory / CATALOG_NAME).chmod(0o644)
        with Catalog.open_writer(directory) as catalog:
            put_version(catalog, "abc", 1)
        with child("unprivileged", directory, stdin=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdin is not None

            def next_line(trigger: str = "") -> str:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(trigger)
                process.stdin.flush()
                return process.stdout.readline().strip()

            assert next_line() == "Permission denied"
            assert next_line() == "{'abc': 1}"
            assert next_line("again\n") == "{'abc': 1}"
            with Catalog.open_writer(directory) as catalog:
                put_version(catalog, "abc", 2)
                assert next_line("while the writer is there\n") == "{'abc': 2}"
                put_version(catalog, "abc", 3)
                assert next_line("and again\n") == "{'abc': 3}"
            assert next_line("when it is gone\n") == "{'abc': 3}"
            process.stdin.close()
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("name", ["", "nothing/here", "a_file"])
def test_nothing_indexed_is_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a_file").write_text("")
    with pytest.raises(DataDirectoryMissing):
        Catalog.open_reader(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("")
    with pytest.raises(DataDirectoryInvalid):
        Catalog.open_writer(tmp_path / "a_file" / "data")


def test_names_what_is_wrong_with_the_folder_s_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataDirectoryInvalid, match="a link that leads nowhere"):
        Catalog.open_writer(tmp_path / "link")
    with pytest.raises(DataDirectoryInvalid, match="SQLite opens at most 504"):
        Catalog.open_writer(tmp_path / ("d" * 200) / ("e" * 200) / ("f" * 200))
    rest = 504 - len(os.fsencode(tmp_path / "d" / "catalog.sqlite"))
    longest = tmp_path / ("d" * 200 + "/" + "e" * (rest - 200))
    Catalog.open_writer(longest).close()


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE meta (key, value)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda path: path.write_bytes(b"this is no database, but long enough to be read as one" * 100),
            "not an SQLite",
        ),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + bytes(5000)), "not an SQLite|damaged"),
        (foreign, "another program's"),
    ],
)
def test_a_file_that_is_no_catalog_is_invalid_and_left_alone(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "catalog.sqlite"
    make(path)
    content = path.read_bytes()
    for open_ in (Catalog.open_reader, Catalog.open_writer, Catalog.open_writer):  # the lock is given back
        with pytest.raises(DataDirectoryInvalid, match=reason):
            open_(tmp_path)
    assert path.read_bytes() == content


def test_a_torn_catalog_is_an_error_and_no_crash(tmp_path: Path) -> None:
    with Catalog.open_writer(tmp_path) as catalog:
        for version in range(1, 8):
            put_version(catalog, f"video{version}", version)
    path = tmp_path / "catalog.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataDirectoryInvalid, match=r"damaged|disk"), Catalog.open_reader(tmp_path) as reader:
        check(reader)


def test_a_newer_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    Catalog.open_writer(tmp_path).close()
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    for open_ in (Catalog.open_reader, Catalog.open_writer):
        with pytest.raises(DataDirectoryInvalid, match=f"version 99.*{schema.VERSION}"):
            open_(tmp_path)


@pytest.mark.parametrize("open_", [Catalog.open_reader, Catalog.open_editor, Catalog.open_writer])
def test_an_older_version_is_brought_forward_by_whoever_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_: Callable[[Path], Catalog]
) -> None:
    with Catalog.open_writer(tmp_path) as catalog:
        put_version(catalog, "abc", 1)
        identity = catalog.identity()
    step = ("ALTER TABLE videos ADD COLUMN tint TEXT NOT NULL DEFAULT 'none'",)
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, step))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    lock = WriterLock(tmp_path)
    with pytest.raises(DataDirectoryInvalid, match=f"version {schema.VERSION - 1}.*{schema.VERSION}"):
        Catalog.open_reader(tmp_path)  # another process writes
    lock.release()
    open_(tmp_path).close()
    with Catalog.open_reader(tmp_path) as reader:
        assert check(reader) == {"abc": 1}
        assert reader.identity() == identity
        assert reader.select("SELECT tint FROM videos") == [("none",)]


def test_words_of_version_6_are_spelled_anew_but_only_words_of_ready_videos_are_found(tmp_path: Path) -> None:
    with Catalog.open_writer(tmp_path) as catalog:
        put_version(catalog, "abc", 1)
        put_version(catalog, "unfinished", 2)
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        old = "3 point 5000000"
        connection.execute("INSERT INTO utterance_search (utterance_search) VALUES ('delete-all')")
        connection.execute("UPDATE utterances SET text = 'Over 3.5 million people', search_text = ?", (old,))
        connection.execute("INSERT INTO utterance_search (utterance_search) VALUES ('rebuild')")
        connection.execute("UPDATE videos SET state = 'PROCESSING' WHERE video_id = 'unfinished'")
        turn_back(connection, 6)
    connection.close()
    Catalog.open_writer(tmp_path).close()
    with Catalog.open_reader(tmp_path) as reader:
        video = reader.video("abc")
        assert {match.row for match in reader.match_words(["three and a half million"], limit=5)} == {video.row}


def test_secrets_leave_the_catalog_of_an_older_program(tmp_path: Path) -> None:
    secret = "https://ann:hunter2@example.org/{}.mp4?pin=hunter2"
    shown = "https://example.org/{}.mp4?pin=hunter2"  # as older programs showed it
    with Catalog.open_writer(tmp_path) as catalog:
        put_version(catalog, "abc", 1)
        put_version(catalog, "other", 2)
        for name in ("queued", "running", "failed", "plain"):
            uri = "https://example.org/plain.mp4" if name == "plain" else shown.format(name)
            JobQueue(catalog).submit(NewJob(collection="default", video_id=name, uri=uri, display_uri=uri))
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        turn_back(connection, 8)
        warning = json.dumps([f'not encoded again: no such page: {shown.format("abc")} (check the "URL")'])
        connection.execute(
            "UPDATE videos SET uri = ?, warnings = ? WHERE video_id = 'abc'", (shown.format("abc").encode(), warning)
        )
        connection.execute("UPDATE places SET place = ? WHERE video_row = 1", (shown.format("abc").encode(),))
        for name in ("queued", "running", "failed"):
            connection.execute(
                "UPDATE jobs SET uri = ?, state = ? WHERE video_id = ?",
                (secret.format(name).encode(), name.upper(), name),
            )
        connection.execute(
            "UPDATE jobs SET uri = display_uri, failure_message = ? WHERE video_id = 'failed'",
            (f"x answers 404: {shown.format('failed')} (check the URL)",),
        )
        places = connection.execute("SELECT count(*) FROM places").fetchone()[0]
    connection.close()
    Catalog.open_writer(tmp_path).close()
    for path in tmp_path.glob("catalog.sqlite*"):
        assert b"hunter2" not in path.read_bytes()
    with Catalog.open_reader(tmp_path) as reader:
        assert reader.video("abc").uri == "https://example.org/abc.mp4?pin=REDACTED"
        assert reader.video("abc").warnings == (
            'not encoded again: no such page: https://example.org/abc.mp4?pin=REDACTED (check the "URL")',
        )
        assert reader.select("SELECT count(*) FROM places") == [(places - 1,)]
        jobs = {job.video_id: job for job in JobQueue(reader).jobs()}
        assert {name: JobQueue(reader).fetched_uri(job) for name, job in jobs.items()} == {
            "queued": secret.format("queued"),
            "running": secret.format("running"),
            "failed": "https://example.org/failed.mp4?pin=REDACTED",
            "plain": "https://example.org/plain.mp4",
        }
        assert jobs["queued"].display_uri == "https://example.org/queued.mp4?pin=REDACTED"
        assert jobs["failed"].failure_message == (
            "x answers 404: https://example.org/failed.mp4?pin=REDACTED (check the URL)"
        )


def test_a_migration_that_fails_leaves_the_older_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalog.open_writer(tmp_path) as catalog:
        put_version(catalog, "abc", 1)
    with monkeypatch.context() as patched:
        patched.setattr(schema, "STEPS", (*schema.STEPS, ("DROP TABLE segments", "no SQL at all")))
        patched.setattr(schema, "VERSION", schema.VERSION + 1)
        with pytest.raises(DataDirectoryInvalid):
            Catalog.open_writer(tmp_path)
    with Catalog.open_writer(tmp_path) as catalog:
        assert check(catalog) == {"abc": 1}


def test_a_second_writer_in_a_process_leaves_the_locks_of_its_readers(tmp_path: Path) -> None:
    Catalog.open_writer(tmp_path).close()
    close_elsewhere = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM videos').fetchall()"
    with Catalog.open_reader(tmp_path) as reader:
        Catalog.open_writer(tmp_path).close()
        # Without the reader's lock, this process would take itself for the last one, and delete the log.
        subprocess.run([sys.executable, "-c", close_elsewhere, str(tmp_path / CATALOG_NAME)], check=True)
        assert (tmp_path / f"{CATALOG_NAME}-wal").exists()
        assert reader.videos() == []
