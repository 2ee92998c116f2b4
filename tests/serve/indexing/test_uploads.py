"""The spool: whole files or none, within its limits, and nothing left behind."""

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.errors import LimitExceeded, SourceUnreadable
from serve.errors import SpoolFull, UploadCorrupt
from serve.indexing import uploads
from serve.indexing.uploads import Spool
from support.waiting import wait_until

CONTENT = b"0123456789" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "uploads", max_upload_bytes=2000, max_spool_bytes=5000)


def files(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool.folder.iterdir()) if spool.folder.exists() else []


def take(spool: Spool, *parts: bytes, size_bytes: int | None = None, sha256: str | None = None) -> str:
    with spool.receive("a.mp4") as upload:
        for part in parts or (CONTENT,):
            upload.write(part)
        return upload.finish(size_bytes=size_bytes, sha256=sha256).name


def test_keeps_what_came_whole(spool: Spool) -> None:
    with spool.receive("a.mp4", size_bytes=1000) as upload:
        upload.write(CONTENT[:300])
        upload.write(b"")
        upload.write(CONTENT[300:])
        got = upload.finish(size_bytes=1000, sha256=SHA256.upper())
    assert (got.content_sha256, got.size_bytes) == (SHA256, 1000)
    assert spool.path(got.name).read_bytes() == CONTENT
    assert files(spool) == [got.name]
    assert uploads.has_same_content(got.name, take(spool))
    assert not uploads.has_same_content(got.name, take(spool, b"other"))
    spool.remove(got.name)
    spool.remove(got.name)  # harmless
    assert len(files(spool)) == 2


@pytest.mark.parametrize(
    ("content", "announced", "error"),
    [
        (CONTENT[:-1], {"size_bytes": 1000}, UploadCorrupt),
        (CONTENT + b"0", {"size_bytes": 1000}, UploadCorrupt),
        (CONTENT[:-1] + b"0", {"size_bytes": 1000, "sha256": SHA256}, UploadCorrupt),
        (b"", {}, SourceUnreadable),
        (b"", {"size_bytes": 0}, SourceUnreadable),
        (b"", {"size_bytes": 5}, UploadCorrupt),
    ],
)
def test_refuses_what_was_not_announced(
    spool: Spool, content: bytes, announced: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"a\.mp4"):
        take(spool, content, **announced)  # type: ignore[arg-type]
    assert files(spool) == []


def test_an_upload_that_breaks_off_leaves_nothing(spool: Spool) -> None:
    with contextlib.suppress(ConnectionError), spool.receive("a.mp4") as upload:
        upload.write(CONTENT)
        assert len(files(spool)) == 1
        raise ConnectionError
    with spool.receive("a.mp4") as upload:
        upload.write(CONTENT)
    assert files(spool) == []


def test_a_file_over_the_limit_is_refused_as_soon_as_it_shows(spool: Spool) -> None:
    with pytest.raises(LimitExceeded) as raised, spool.receive("a.mp4", size_bytes=2001):
        pytest.fail("received all the same")
    assert raised.value.limit == "max_upload_bytes"
    with pytest.raises(LimitExceeded, match=r"upload:a\.mp4"):
        take(spool, bytes(2000), b"x")
    assert files(spool) == []


def test_the_spool_has_a_limit_for_all_files_together(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        take(spool)
    with pytest.raises(SpoolFull), spool.receive("a.mp4", size_bytes=1500):
        pytest.fail("received all the same")
    with spool.receive("b.mp4") as other, spool.receive("a.mp4") as upload:
        other.write(bytes(500))
        upload.write(bytes(500))  # to the last byte
        with pytest.raises(SpoolFull) as raised:
            upload.write(b"x")
    assert raised.value.retry_after_seconds > 0
    assert len(files(spool)) == 4
    for name in files(spool)[:2]:
        spool.path(name).unlink()  # as the worker does, in another process
    monkeypatch.setattr(uploads, "COUNT_SECONDS", 0.0)
    take(spool)


def test_a_full_disk_is_a_full_spool(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("write", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(f"serve.indexing.uploads.os.{call}", full)
            with pytest.raises(SpoolFull):
                take(spool)
        assert files(spool) == []


def test_cleaning_removes_only_files_without_a_job(spool: Spool) -> None:
    spool.clean(lambda: ())  # before there is a folder
    needed, orphan = take(spool), take(spool, b"orphan")
    with spool.receive("c.mp4") as coming, spool.receive("d.mp4") as waiting:
        coming.write(CONTENT)
        waiting.write(b"its job is not submitted yet")
        name = waiting.finish().name
        assert len(files(spool)) == 4
        spool.clean(lambda: {needed})
        assert files(spool) == sorted([needed, name, next(one for one in files(spool) if one.endswith(".part"))])
        assert orphan not in files(spool)
        coming.write(CONTENT)
        assert spool.path(coming.finish().name).stat().st_size == 2 * len(CONTENT)
    spool.clean(lambda: {needed, name})
    assert files(spool) == sorted([needed, name])


def test_cleaning_spares_a_file_whose_job_comes_meanwhile(spool: Spool) -> None:
    name = take(spool)
    answers = iter([set[str](), {name}])
    spool.clean(lambda: next(answers))
    assert files(spool) == [name]


def test_a_kill_leaves_what_the_next_start_cleans(spool: Spool) -> None:
    code = (
        "import sys, pathlib\nfrom serve.indexing.uploads import Spool\n"
        "spool = Spool(pathlib.Path(sys.argv[1]), max_upload_bytes=9000, max_spool_bytes=9000)\n"
        "with spool.receive('a.mp4') as upload:\n"
        "    upload.write(b'x')\n    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(spool.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        spool.clean(lambda: ())
        assert len(files(spool)) == 1  # it still comes
        process.kill()
    wait_until(lambda: spool.clean(lambda: ()) or not files(spool))


@pytest.mark.parametrize("name", ["", "..", "../catalog.sqlite", "a/b", "abc.part", "a\0b"])
def test_only_its_own_files_have_names(spool: Spool, name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        spool.path(name)
