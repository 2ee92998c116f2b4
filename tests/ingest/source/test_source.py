"""Files, folders and file: URIs. Downloads are in test_fetch.py."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

import ingest.source.source as source
from ingest.config import SourceConfig
from ingest.errors import (
    LimitExceeded,
    SourceError,
    SourceNotFound,
    SourceRefused,
    SourceUnavailable,
    SourceUnreadable,
)
from ingest.source.source import check_policy, display_uri, open_source, scheme_of, video_id_of

CONTENT = b"not really a video" * 1000


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "library" / "a video.mp4"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def open_and_check(uri: str | Path, spool: Path, **settings: object) -> source.SourceFile:
    """Open a source, check its file against its size and hash, and close it."""
    with open_source(str(uri), SourceConfig(**settings), spool=spool) as it:  # type: ignore[arg-type]
        assert it.file.tell() == 0
        data = it.file.read()
        assert len(data) == it.size_bytes
        assert hashlib.sha256(data).hexdigest() == it.content_sha256
    assert it.file.closed
    return it


def test_opens_a_path_with_its_hash_and_reports_progress(video: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    config = SourceConfig(file_roots=())  # the policy applies to URIs: a path needs no root
    with open_source(str(video), config, spool=tmp_path, progress=lambda *at: seen.append(at)) as it:
        assert it.uri == str(video)
        assert it.content_sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert it.size_bytes == len(CONTENT)
        assert it.file.read() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_stores_an_absolute_path(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(video.parent)
    assert open_and_check(video.name, tmp_path).uri == str(video)
    (tmp_path / "link").symlink_to(video.parent)
    assert open_and_check(tmp_path / "link" / video.name, tmp_path).uri == str(tmp_path / "link" / video.name)


def test_stores_the_path_that_names_the_file_where_dots_cross_a_link(video: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(video.parent)
    (tmp_path / "b.mp4").write_bytes(b"beside the library")
    assert open_and_check(f"{tmp_path}/elsewhere/link/../b.mp4", tmp_path).uri == str(tmp_path / "b.mp4")


def test_video_id_is_the_beginning_of_the_hash(video: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert video_id_of(open_and_check(video, tmp_path).content_sha256) == digest[:16]


@pytest.mark.parametrize("name", ["C:movie.mp4", "concat:a|b.mp4", "Movie: part 2.mp4", "data:,x", "[a].mp4"])
def test_opens_a_file_whose_name_looks_like_a_uri(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(CONTENT)
    assert open_and_check(name, tmp_path).uri == str(tmp_path / name)
    assert scheme_of(name) is None


@pytest.mark.parametrize(
    "uri",
    [
        "concat:/etc/hosts|/etc/hosts",
        "subfile:,,start,0,end,9,,:/etc/hosts",
        "crypto:/etc/hosts",
        "data:text/plain,hello",
        "pipe:0",
        "fd:0",
        "unix:/run/x",
        "rtsp://camera/stream",
        "ftp://example.org/a.mp4",
        "gopher://example.org/1",
        "file,http://example.org/a.mp4",
        "cache:http://example.org/a.mp4",
        "http:/etc/hosts",
        "https:a",
        "tcp://127.0.0.1:80",
        "no-such: movie.mp4",
    ],
)
def test_refuses_every_other_scheme(uri: str, tmp_path: Path) -> None:
    expected = (
        SourceNotFound if uri.startswith("file,") else SourceRefused
    )  # with a comma it is not a scheme but a path
    with pytest.raises(expected), open_source(uri, SourceConfig(), spool=tmp_path):
        pass


def test_refuses_an_unwanted_scheme_even_if_configured(tmp_path: Path) -> None:
    config = SourceConfig(schemes=("ftp",))
    for uri in ("ftp://example.org/a.mp4", "http://example.org/a.mp4", "file:///a.mp4"):
        with pytest.raises(SourceRefused), open_source(uri, config, spool=tmp_path):
            pass


@pytest.mark.parametrize("path", ["missing.mp4", "", "a\0b", "missing/deep.mp4", "C:\\movie.mp4", "x" * 300])
def test_says_that_a_missing_file_is_missing(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = SourceUnreadable if len(path) == 300 else SourceNotFound  # ENAMETOOLONG
    with pytest.raises(error), open_source(path, SourceConfig(), spool=tmp_path):
        pass


def test_refuses_what_is_not_a_regular_file_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.mp4"))
        for path in (tmp_path / "fifo.mp4", tmp_path / "socket.mp4", Path("/dev/zero")):
            for uri in (str(path), path.as_uri()):
                with (
                    pytest.raises(SourceRefused, match="not a regular file"),
                    open_source(uri, SourceConfig(file_roots=("/",)), spool=tmp_path),
                ):
                    pass


def test_refuses_a_fifo_put_in_place_of_the_file_after_the_check(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = os.open

    def open_after_exchange(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if os.path.basename(path) == video.name:
            video.unlink()
            os.mkfifo(video)
        return genuine(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_after_exchange)
    with pytest.raises(SourceRefused), open_source(str(video), SourceConfig(), spool=tmp_path):
        pass


def test_leaves_no_descriptor_open(video: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "empty.mp4").touch()
    before = len(os.listdir("/dev/fd"))
    roots = (str(tmp_path),)
    for path in (video, tmp_path / "fifo.mp4", tmp_path / "empty.mp4", tmp_path / "missing.mp4", Path("/etc/hosts")):
        for uri in (str(path), path.as_uri()):
            try:
                with open_source(uri, SourceConfig(file_roots=roots), spool=tmp_path):
                    raise KeyError
            except (SourceError, KeyError):
                pass
    assert len(os.listdir("/dev/fd")) == before


def test_says_that_an_empty_file_and_a_folder_are_not_readable(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceUnreadable, match="empty file"):
        open_and_check(tmp_path / "empty.mp4", tmp_path)
    with pytest.raises(SourceUnreadable, match="a folder"):
        open_and_check(tmp_path, tmp_path)


def test_says_that_permission_is_denied(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # root may open any file, so that file modes do not help
    with pytest.raises(SourceUnreadable, match="permission denied"):
        open_and_check(video, tmp_path)


def test_says_that_a_file_is_still_being_written(video: Path, tmp_path: Path) -> None:
    def grow(done_bytes: int, total_bytes: int | None) -> None:
        with video.open("ab") as more:
            more.write(b"more")

    with (
        pytest.raises(SourceUnavailable, match="changed while it was read"),
        open_source(str(video), SourceConfig(), spool=tmp_path, progress=grow),
    ):
        pass


class WrittenFile:
    """A file that a recorder writes while time passes; takes the place of the module `time`."""

    def __init__(self, path: Path, writing_seconds: float) -> None:
        """Age the file by an hour, and write it every half second for `writing_seconds`."""
        self.path, self.until, self.now, self.slept = path, 1e9 + writing_seconds, 1e9, 0.0
        self.touch(self.now - (0 if writing_seconds else 3600))

    def touch(self, at: float) -> None:
        os.utime(self.path, (at, at))

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now, self.slept = self.now + seconds, self.slept + seconds
        if self.now < self.until and int(2 * self.now) > int(2 * (self.now - seconds)):
            with self.path.open("ab") as more:
                more.write(b"more")
            self.touch(self.now)


def open_while_written(
    video: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> tuple[source.SourceFile, WrittenFile]:
    clock = WrittenFile(video, seconds)
    monkeypatch.setattr(source, "time", clock)
    with open_source(str(video), SourceConfig(), spool=video.parent, may_grow=True) as opened:
        assert hashlib.sha256(opened.file.read()).hexdigest() == opened.content_sha256
    return opened, clock


def test_waits_until_a_file_rests(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, clock = open_while_written(video, monkeypatch, seconds=5)
    assert not opened.is_being_written
    assert opened.size_bytes == video.stat().st_size > len(CONTENT)
    assert 5 < clock.slept < 5 + 1.5 * source.REST_SECONDS


def test_takes_what_is_there_of_a_file_that_never_rests(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, clock = open_while_written(video, monkeypatch, seconds=1e6)
    assert opened.is_being_written
    assert clock.slept == pytest.approx(source.GROWING_SECONDS, abs=1)


@pytest.mark.parametrize("age_seconds", [3.0, 1e8, -60.0, -1e8])
def test_does_not_wait_for_a_file_that_rests(video: Path, monkeypatch: pytest.MonkeyPatch, age_seconds: float) -> None:
    clock = WrittenFile(video, 0)
    clock.touch(clock.now - age_seconds)  # in the future: the clock of the file's machine is wrong
    monkeypatch.setattr(source, "time", clock)
    with open_source(str(video), SourceConfig(), spool=video.parent, may_grow=True) as opened:
        assert not opened.is_being_written
    assert clock.slept == 0


def test_a_file_that_is_written_while_it_is_hashed_is_hashed_again(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, pieces = WrittenFile(video, 0), [b"one", b"two"]
    monkeypatch.setattr(source, "time", clock)

    def write(*_: object) -> None:
        if pieces and clock.now - 1e9 < 60:
            with video.open("ab") as more:
                more.write(pieces.pop())

    with open_source(str(video), SourceConfig(), spool=video.parent, progress=write, may_grow=True) as opened:
        assert opened.file.read() == CONTENT + b"twoone"
        assert opened.content_sha256 == hashlib.sha256(CONTENT + b"twoone").hexdigest()
        assert not opened.is_being_written


def test_names_the_limit_a_large_file_passes(video: Path, tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="max_bytes") as caught:
        open_and_check(video, tmp_path, max_bytes=len(CONTENT) - 1)
    assert caught.value.limit == "max_bytes"
    open_and_check(video, tmp_path, max_bytes=len(CONTENT))


@pytest.mark.parametrize("host", ["", "localhost", "LOCALHOST"])
def test_opens_a_file_uri_below_a_root(host: str, video: Path, tmp_path: Path) -> None:
    uri = f"file://{host}{video.parent}/a%20video.mp4"
    assert open_and_check(uri, tmp_path, file_roots=("/nowhere", str(video.parent))).uri == uri
    assert open_and_check(f"FILE:{video}", tmp_path, file_roots=(str(tmp_path),)).size_bytes == len(CONTENT)


def test_reads_a_name_of_any_script_from_a_file_uri(tmp_path: Path) -> None:
    path = tmp_path / "пример 100%?#\u202f\n.mp4"
    path.write_bytes(CONTENT)
    assert open_and_check(path.as_uri(), tmp_path, file_roots=(str(tmp_path),)).size_bytes == len(CONTENT)


@pytest.mark.parametrize(
    "tail",
    [
        "library/../secret.mp4",
        "library/%2e%2e/secret.mp4",
        "library/%2E%2E%2Fsecret.mp4",
        "library/link.mp4",
        "library/folder-link/secret.mp4",
        "library/missing/../../secret.mp4",
        "library-beside/secret.mp4",
        "secret.mp4",
        "library",
        "no-such-file.mp4",  # the answer must not reveal what exists outside
    ],
)
def test_refuses_a_file_uri_that_leads_outside_the_roots(tail: str, video: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(CONTENT)
    (tmp_path / "library-beside").mkdir()
    (tmp_path / "library-beside" / "secret.mp4").write_bytes(CONTENT)
    (video.parent / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (video.parent / "folder-link").symlink_to(tmp_path)
    with pytest.raises(SourceRefused, match="file_roots"):
        open_and_check(f"file://{tmp_path}/{tail}", tmp_path, file_roots=(str(video.parent),))


def test_follows_links_that_stay_below_the_roots(video: Path, tmp_path: Path) -> None:
    (tmp_path / "way-in").symlink_to(video.parent)
    (video.parent / "link.mp4").symlink_to(video)
    for uri in (f"file://{tmp_path}/way-in/link.mp4", f"file://{video.parent}/../library/link.mp4"):
        assert open_and_check(uri, tmp_path, file_roots=(str(tmp_path / "way-in"),)).size_bytes == len(CONTENT)


def test_opens_nothing_through_a_link_exchanged_after_the_check(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.mp4").write_bytes(b"secret")
    inner = video.parent / "inner"
    inner.mkdir()
    (inner / "secret.mp4").write_bytes(CONTENT)
    genuine = os.path.realpath

    def exchange(path: str, **kwargs: bool) -> str:
        real = genuine(path, **kwargs)
        if real.endswith("secret.mp4"):
            inner.rename(video.parent / "inner-before")
            inner.symlink_to(tmp_path / "outside")
        return real

    monkeypatch.setattr(os.path, "realpath", exchange)
    with pytest.raises(SourceError):
        open_and_check(f"file://{inner}/secret.mp4", tmp_path, file_roots=(str(video.parent),))


def test_opens_no_link_put_in_place_of_the_file_after_the_check(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    genuine = os.open

    def open_after_exchange(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if path == video.name:
            video.unlink()
            video.symlink_to(tmp_path / "secret.mp4")
        return genuine(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_after_exchange)
    with pytest.raises(SourceError):
        open_and_check(video.as_uri(), tmp_path, file_roots=(str(video.parent),))


@pytest.mark.parametrize(
    "uri",
    [
        "file:{name}",
        "file:./{path}",
        "file://{name}",
        "file://example.org{path}",
        "file://localhost:80{path}",
        "file://user@localhost{path}",
        "file://..{path}",
        "file:////{path}",
        "file://%2F{path}",
        "file:{path}?x",
        "file:{path}#t=10",
        "file:\n{path}",
        "file://[{path}",
        "file:",
        "file:{path}%00.mp4",
        "file:{path}%ff.mp4",
    ],
)
def test_refuses_oddly_spelled_file_uris(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").write_bytes(CONTENT)
    with pytest.raises(SourceError) as caught:
        open_and_check(uri.format(name="a.mp4", path=tmp_path / "a.mp4"), tmp_path, file_roots=("/",))
    assert not isinstance(caught.value, SourceUnavailable)
    assert "\n" not in str(caught.value)


def test_distinguishes_paths_from_uris() -> None:
    for uri, scheme in [
        ("HTTP://x/", "http"),
        ("file:a", "file"),
        ("rtsp://x", "rtsp"),
        ("concat:a|b", "concat"),
        ("/a:b", None),
        ("C:\\a", None),
        ("a.mp4", None),
        ("./http://x", None),
        ("", None),
    ]:
        assert scheme_of(uri) == scheme


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:pw@x.org/a.mp4?v=1#t", "https://x.org/a.mp4?v=1"),
        ("rtsp://admin:pw@10.0.0.1:554/1", "rtsp://10.0.0.1:554/1"),
        ("http://u:p/w@x.org/a.mp4", "http://…"),
        ("http://u:p@[x/a.mp4", "http://…"),
        ("https://x/a?X-Amz-Signature=abc&n=2&sig=3", "https://x/a?X-Amz-Signature=REDACTED&n=2&sig=REDACTED"),
        ("https://x/a?access%5Ftoken=abc", "https://x/a?access%5Ftoken=REDACTED"),
        ("https://example.org/@someone/a.mp4", "https://example.org/@someone/a.mp4"),
        ("two\nlines.mp4", "two\\nlines.mp4"),
        ("/bad\udcff.mp4", "/bad\\udcff.mp4"),
    ],
)
def test_shows_sources_on_one_line_without_secrets(uri: str, shown: str) -> None:
    assert display_uri(uri) == shown


def test_no_file_uri_is_read_unless_the_settings_name_its_folder(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(video.parent)
    for uri in (video.as_uri(), (video.parent / "missing.mp4").as_uri()):
        with pytest.raises(SourceRefused, match="outside the allowed folders"):
            check_policy(uri, SourceConfig())
        with pytest.raises(SourceRefused, match="outside the allowed folders"):
            open_and_check(uri, tmp_path)
    check_policy(video.as_uri(), SourceConfig(file_roots=(".",)))


@pytest.mark.parametrize("bad", [{"private_networks": ("10.0.0.1/8",)}, {"max_redirects": -1}, {"max_bytes": 0}])
def test_refuses_invalid_settings(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SourceConfig(**bad)  # type: ignore[arg-type]
