"""The audit log: its lines, and a file that is rotated, full, gone or no file at all."""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moderation_service_pb2 as moderation_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from serve.observe import audit
from serve.observe.audit import Act, AuditFile, AuditLog, Subject
from support.waiting import wait_until

Count = Callable[[audit.Outcome, int], None]


def act(name: str = "v1", **changes: Any) -> Act:
    subject = changes.pop("subject", None) or Subject(ids=[name])
    return Act(**{"method": "S/M", "caller": "laptop", "outcome": "OK", "subject": subject, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def count(counts: Counter[str]) -> Count:
    lock = threading.Lock()

    def add(outcome: audit.Outcome, number: int) -> None:
        with lock:
            counts[outcome] += number

    return add


@pytest.fixture
def log(path: Path, count: Count) -> Iterator[AuditLog]:
    opened = AuditLog(path, with_questions=False, count=count)
    yield opened
    if opened._thread.is_alive():
        opened.close()


def ids(*paths: Path) -> list[str]:
    lines = [line for path in paths for line in path.read_text("ascii").splitlines() if line]
    return [json.loads(line)["ids"][0] for line in lines]


# ------------------------------------------------------------------ what a line has
def subject_of(message: Any) -> Subject:
    subject = Subject()
    subject.note_request(message)
    return subject


def test_a_line_names_the_collections_the_videos_and_the_policies_of_a_request() -> None:
    reference = moment_pb2.MomentReference(video_id="v3", collection="films")
    query = moment_pb2.Query(text="a boat", exclude_text="a ship", image=b"\xff" * 100, like=reference)
    narrow = moment_pb2.Filter(collections=["talks", "cams"], video_ids=["v1", "v2"])
    found = subject_of(search_pb2.SearchMomentsRequest(query=query, filter=narrow))
    assert sorted(found.collections) == ["cams", "films", "talks"]
    assert sorted(found.ids) == ["v1", "v2", "v3"]
    assert found.question == "a boat | a ship"
    events = moderation_pb2.EventFilter(collections=["cams"], video_ids=["v1"], policy_ids=["weapon"])
    found = subject_of(moderation_pb2.ListEventsRequest(filter=events))
    assert (found.collections, found.ids) == (["cams"], ["v1", "weapon"])
    found = subject_of(moderation_pb2.ReviewEventRequest(event_id="e1", note="a toy"))
    assert (found.ids, found.question) == (["e1"], "a toy")  # shown as a question is: only if the operator asks


def test_a_line_has_a_uri_without_its_secrets_and_no_request_id_as_an_id() -> None:
    found = subject_of(
        library_pb2.IngestVideoRequest(
            uri="https://user:hunter2@example.org/a.mp4", collection="talks", request_id="r-1", metadata={"uri": "x"}
        )
    )
    assert "hunter2" not in found.uri
    assert found.uri.endswith("example.org/a.mp4")
    assert (found.collections, found.ids) == (["talks"], [])


def test_only_the_first_message_of_an_upload_is_read() -> None:
    header = library_pb2.UploadVideoRequest(header=library_pb2.UploadHeader(collection="talks", video_id="v1"))
    found = subject_of(header)
    found.note_request(library_pb2.UploadVideoRequest(header=library_pb2.UploadHeader(video_id="v2")))
    assert (found.collections, found.ids) == (["talks"], ["v1"])


def test_a_line_is_short_however_long_the_request_is() -> None:
    narrow = moment_pb2.Filter(video_ids=[f"{number}{'x' * 10_000}" for number in range(1000)])
    request = search_pb2.SearchMomentsRequest(query=moment_pb2.Query(text="y" * 100_000), filter=narrow)
    line = act(subject=subject_of(request)).line(with_question=True)
    assert len(line) < 2 * (audit.MAX_NAME_COUNT * audit.MAX_NAME_LENGTH + audit.MAX_TEXT_LENGTH)


def test_a_line_has_questions_only_if_asked_and_control_characters_never() -> None:
    asked = act(subject=Subject(ids=["v\x1b[2J\n"], question="who\u202e is it?"), caller="", reason="X")
    without = json.loads(asked.line(with_question=False))
    assert "question" not in without
    assert without.keys() == {"time", "method", "outcome", "reason", "ids"}
    assert without["time"].endswith("Z")
    line = asked.line(with_question=True)
    assert json.loads(line)["question"] == "who\u202e is it?"
    assert line.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])


# ------------------------------------------------------------------ the file
def test_every_act_is_a_line_and_the_last_ones_are_written_at_the_end(log: AuditLog, path: Path, counts: Any) -> None:
    for number in range(2500):
        log.record(act(str(number)))
    log.close()
    log.record(act("too late"))
    assert ids(path) == [str(number) for number in range(2500)]
    assert counts == {"written": 2500, "lost": 1}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_renamed_file_is_left_and_a_new_one_is_begun(log: AuditLog, path: Path, counts: Counter[str]) -> None:
    log.record(act("before"))
    wait_until(lambda: counts["written"] == 1)
    path.rename(path.with_suffix(".1"))
    log.record(act("after"))
    log.close()
    assert ids(path.with_suffix(".1")) == ["before"]
    assert ids(path) == ["after"]


def test_a_file_that_logrotate_made_anew_is_used(log: AuditLog, path: Path, counts: Counter[str]) -> None:
    log.record(act("before"))
    wait_until(lambda: counts["written"] == 1)
    path.rename(path.with_suffix(".1"))
    path.touch(0o640)
    log.record(act("after"))
    log.close()
    assert ids(path) == ["after"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_was_copied_and_truncated_has_no_hole(log: AuditLog, path: Path, counts: Counter[str]) -> None:
    log.record(act("before"))
    wait_until(lambda: counts["written"] == 1)
    os.truncate(path, 0)
    log.record(act("after"))
    log.close()
    assert ids(path) == ["after"]


def test_two_processes_append_to_one_file(log: AuditLog, path: Path, count: Count) -> None:
    other = AuditLog(path, with_questions=False, count=count)
    for number in range(500):
        (log, other)[number % 2].record(act(str(number)))
    log.close()
    other.close()
    assert sorted(map(int, ids(path))) == list(range(500))


def test_acts_are_lost_and_counted_while_the_file_cannot_be_written(
    log: AuditLog, path: Path, counts: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    log.record(act("before"))
    wait_until(lambda: counts["written"] == 1)
    path.rename(path.with_suffix(".1"))
    path.mkdir()
    for number in range(3):
        log.record(act(f"lost {number}"))
        wait_until(lambda number=number: counts["lost"] == number + 1)
    path.rmdir()
    log.record(act("after"))
    log.close()
    assert ids(path) == ["after"]
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [f"audit log cannot be written, its acts are lost file={path} reason=Is a directory"]
    assert f"audit log can be written again file={path}" in caplog.messages


def test_a_fifo_is_refused_and_stops_nobody(path: Path, count: Count, counts: Counter[str], caplog: Any) -> None:
    os.mkfifo(path)
    log = AuditLog(path, with_questions=False, count=count)
    log.record(act())
    log.close()
    assert counts == {"lost": 1}
    assert "audit log cannot be written" in caplog.text
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # now it could be opened
    try:
        with pytest.raises(OSError, match="not a regular file"):
            AuditFile(path).append(b"{}\n")
    finally:
        os.close(reader)


def test_a_full_disk_tears_one_line_and_no_later_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, write = AuditFile(path), os.write
    file.append(act("first").line(with_question=False))

    def half(descriptor: int, content: memoryview) -> int:
        if len(content) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[: len(content) - 10])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        file.append(act("torn").line(with_question=False))
    monkeypatch.undo()
    file.append(act("last").line(with_question=False))
    file.close()
    first, torn, last = path.read_text("ascii").splitlines()
    assert [json.loads(line)["ids"] for line in (first, last)] == [["first"], ["last"]]
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(torn)


def test_acts_beyond_the_queue_are_lost_and_nobody_waits(
    path: Path, count: Count, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_WAITING_COUNT", 2)
    begun, go_on = threading.Event(), threading.Event()
    append = AuditFile.append

    def slow(self: AuditFile, lines: bytes) -> None:
        begun.set()
        go_on.wait()
        append(self, lines)

    monkeypatch.setattr(AuditFile, "append", slow)
    log = AuditLog(path, with_questions=False, count=count)
    log.record(act("0"))
    begun.wait()
    for number in range(1, 6):
        log.record(act(str(number)))
    assert counts == {"lost": 3}
    go_on.set()
    log.close()
    assert ids(path) == ["0", "1", "2"]
    assert counts == {"lost": 3, "written": 3}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_leaves_a_new_file_to_the_owner_of_its_folder(path: Path) -> None:
    os.chown(path.parent, 1234, 1234)
    AuditFile(path).append(b"{}\n")
    assert path.stat().st_uid == 1234
