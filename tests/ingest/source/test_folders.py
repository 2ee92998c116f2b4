"""Folders: which files are media, by suffix and by content, and what is left out."""

import inspect
import os
import sys
from pathlib import Path

import pytest

from ingest.errors import SourceNotFound, SourceUnreadable
from ingest.source.folders import list_sources
from support.media import Track, encode_media, times

not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
TYPESCRIPT = "export const answer: number = 42; // für alle\n"


def test_lists_the_media_files_of_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b.MP4", "a.mkv", "sub/c.m2ts", "sub/notes.txt", ".hidden.mp4", ".git/d.mp4", "z.opus", "poster.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = [str(tmp_path / name) for name in ("a.mkv", "b.MP4", "sub/c.m2ts", "z.opus")]
    assert list_sources([str(tmp_path)]).entries == expected
    assert list_sources([str(tmp_path / "poster.jpg"), "http://x/a"]).entries == [
        str(tmp_path / "poster.jpg"),
        "http://x/a",
    ]


def test_lists_past_link_loops_and_finds_linked_folders_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "v.mp4").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert list_sources([str(tmp_path)]).entries == [str(tmp_path / "a" / "v.mp4")]


def test_lists_folders_nested_deeper_than_the_call_stack(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*["d"] * 200)
    deepest.mkdir(parents=True)
    (deepest / "v.mp4").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = list_sources([str(tmp_path)]).entries
    finally:
        sys.setrecursionlimit(limit)
    assert found == [str(deepest / "v.mp4")]


def test_listing_continues_after_unreadable_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "v.mp4").touch()
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    genuine = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return genuine(path)

    monkeypatch.setattr(os, "scandir", scandir)
    inputs = [str(tmp_path), "no-such-file.mp4", "https://x/v.mp4"]
    closed, gone, video, missing, url = list_sources(inputs).entries
    assert isinstance(closed, SourceUnreadable)
    assert "Permission denied" in closed.reason
    assert isinstance(missing, SourceNotFound)
    assert (gone, video, url) == (str(tmp_path / "gone.mp4"), str(tmp_path / "v.mp4"), "https://x/v.mp4")


@not_as_root
def test_listing_reports_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    entries = list_sources([str(tmp_path), str(tmp_path / "closed" / "v.mp4")]).entries
    assert [type(entry) for entry in entries] == [SourceUnreadable, SourceUnreadable]


def test_listing_reports_a_folder_without_media(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (found,) = list_sources([str(tmp_path)]).entries
    assert isinstance(found, SourceNotFound)
    assert "no video or audio file" in str(found)


def test_finds_media_by_content_and_counts_what_is_left_out(tmp_path: Path) -> None:
    media = encode_media(format="mp4", video=Track(times=times(2)))
    stream = encode_media(format="mpegts", video=Track(times=times(12)))
    taken = {"GL01.LRV": media, "VID_1.insv": media, "clip.360": media, "no suffix": media, "rec.trp": stream}
    taken |= {"a.mts": stream, "b.ts": stream, "cut.ts": stream[1000:], "damaged.ts": bytes(1000), "empty.mp4": b""}
    left_out = {
        "app.ts": TYPESCRIPT.encode(),
        "app.mts": TYPESCRIPT.encode("latin-1"),
        "qt_de.ts": TYPESCRIPT.encode("utf-16"),
        "empty.ts": b"",
        "board.dts": b"/dts-v1/;\n",
        "go.mod": b"module example.org/a\n",
        "film.mp4.part": media,
        "list.m3u8": b"#EXTM3U\n#EXT-X-VERSION:3\n",
        "README": b"Read me.",
        "empty": b"",
        "photo.JPG": b"\xff\xd8\xff\xe1",
    }
    for name, content in (taken | left_out).items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    found = list_sources([str(tmp_path)])
    assert found.entries == sorted(str(tmp_path / name) for name in taken)
    assert found.left_out == {
        ".ts": 3, ".mts": 1, ".dts": 1, ".mod": 1, ".part": 1, ".m3u8": 1, "": 4, ".jpg": 1,
    }  # fmt: skip


@not_as_root
def test_a_closed_file_is_an_error_only_if_its_suffix_is_of_media(tmp_path: Path) -> None:
    for name in ("a.ts", "b.key"):
        (tmp_path / name).touch(mode=0)
    assert list_sources([str(tmp_path)]).entries == [str(tmp_path / "a.ts")]


def test_finds_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    try:
        name.touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert list_sources([str(tmp_path), str(name)]).entries == [str(name)] * 2
    (no_name,) = list_sources(["\ud800"]).entries  # no bytes of a name
    assert isinstance(no_name, SourceNotFound)
    str(no_name).encode()
