"""Acting on an answer: names of moments, players' command lines, and clips as files."""

import hashlib
import os
from pathlib import Path

import av
import click
import pytest
from click.testing import CliRunner

from serve.catalog.catalog import Catalog, NewVideo
from serve.cli.act.answers import clip_name
from serve.cli.act.places import parse_place, parse_span, parse_time
from serve.cli.act.play import command_line
from serve.cli.main import cli
from serve.cli.render import short_id
from support.media import Track, read_number, times, write_media
from support.sample_answers import moment
from support.sample_catalog import FINGERPRINT, MEDIA


@pytest.mark.parametrize(
    ("text", "seconds"), [("12.3", 12.3), ("0:11", 11.0), ("1:02:03.5", 3723.5), (" 83 ", 83.0), ("90:00", 5400.0)]
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "soon", "1e3", "nan", "٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        parse_time(text)


def test_spans_and_places() -> None:
    assert parse_span("0:11-0:24") == parse_span("11\u20130:24") == (11.0, 24.0)
    assert parse_place("3fa9@12.3") == ("3fa9", 12.3)
    assert parse_place("me@home.mp4@0:10") == ("me@home.mp4", 10.0)
    assert parse_place("3fa9") == ("3fa9", 0.0)
    for wrong in ("0:24-0:11", "0:11", "1-2-3", "5-5"):
        with pytest.raises(click.BadParameter):
            parse_span(wrong)


@pytest.mark.parametrize(
    ("player", "line"),
    [
        ("mpv", ["mpv", "--start=12.300", "--", "/a b.mp4"]),
        ("/opt/VLC", ["/opt/VLC", "--start-time=12.300", "/a b.mp4"]),
        ("ffplay", ["ffplay", "-ss", "12.300", "-i", "/a b.mp4"]),
        ("browser", ["browser", "file:///a%20b.mp4#t=12.300"]),
    ],
)
def test_players_begin_at_the_moment(player: str, line: list[str]) -> None:
    assert command_line("/a b.mp4", 12.3, player) == line


def test_first_player_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name if name == "vlc" else None)
    assert command_line("/a.mp4", 0.0, "")[0] == "vlc"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert command_line("https://example.org/a.mp4", 1.0, "") == ["browser", "https://example.org/a.mp4#t=1.000"]
    with pytest.raises(click.ClickException, match="not known"):
        command_line("/a.mp4", 0.0, "quicktime")


def make_library(directory: Path, film: Path, *ids: str) -> None:
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    with Catalog.open_writer(directory) as catalog:
        for number, video_id in enumerate(ids):
            uri = str(film) if not number else f"/gone/{video_id}.mp4"
            new = NewVideo(
                video_id=video_id, collection="default", uri=uri, content_sha256=digest, fingerprint=FINGERPRINT
            )
            catalog.finish(catalog.begin(new), media=MEDIA, duration_seconds=2.0, warnings=())


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library of a film of two seconds, and of two whose files are gone."""
    write_media(tmp_path / "film.mp4", format="mp4", video=Track(times=times(48)))
    make_library(tmp_path / "library", tmp_path / "film.mp4", "abcd1234", "abcd1299", "77770000")
    return tmp_path / "library"


def run(library: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [*arguments, "--data", str(library)])
    return done.exit_code, done.output


@pytest.mark.slow
def test_clip_is_written_by_the_name_of_a_file(library: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    status, output = run(library, "clip", "film.mp4", "0:00.5-0:01.5", "-o", str(out))
    assert (status, output.split("  ")[0]) == (0, f"wrote {out}")
    with av.open(str(out)) as container:
        numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert numbers == list(range(12, 36))
    assert out.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022))
    status, output = run(library, "clip", "abcd1234", "5-6", "-o", str(out))
    assert (status, "the video ends at 0:02" in output) == (1, True)
    status, output = run(library, "clip", "7777", "0-1", "-o", str(tmp_path / "none.mp4"))
    assert (status, "no such file" in output) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "library", "out.mp4"]


def test_play_prints_its_command_line_and_needs_a_screen(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.cli.act.play.has_screen", lambda: False)
    path = library.parent / "film.mp4"
    assert run(library, "play", "abcd12@1.5") == (
        1,
        "kinodex: error: abcd12 is more than one video in default: name the collection, or the whole id\n",
    )
    assert run(library, "play", "abcd1234@1.5", "--player", "mpv", "--print") == (0, f"mpv --start=1.500 -- {path}\n")
    status, output = run(library, "play", f"{path}@0:01", "--player", "mpv")
    assert (status, output.splitlines()[0]) == (1, f"mpv --start=1.000 -- {path}")
    assert "there is no screen" in output


def test_ids_are_short_enough_to_type() -> None:
    assert [short_id(name) for name in ("3fa9c0ffee123456", "keynote-2026", "3fa9")] == [
        "3fa9c0ff",
        "keynote-2026",
        "3fa9",
    ]


def test_files_of_clips_are_named_after_video_and_time() -> None:
    assert clip_name(3, moment(uri="/v/my: film?.mp4", start_seconds=65.4)) == "03-my_ film_-1.05.mp4"
