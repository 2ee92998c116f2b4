"""The command `kinodex play`: opens a player at a moment of a video."""

import os
import shlex
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from serve.cli.options import library_options, local_library

if TYPE_CHECKING:
    from serve.values import Video

PLAYERS = ("mpv", "vlc", "ffplay")  # in the order in which they are looked for; then the browser
BROWSER = "browser"
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")  # variables of Unix sessions with a screen


@click.command(
    epilog="""\b
Examples:
  kinodex play 3fa9@12.3
  kinodex play holiday.mp4@1:05 --player vlc
  kinodex play 3fa9@12.3 --print        only print the command line"""
)
@click.argument("place", metavar="ID|FILE[@TIME]")
@click.option(
    "--player",
    metavar="PLAYER",
    help="mpv, vlc, ffplay, browser, or the path of one of the first three.  [default: clip.player]",
)
@click.option("--print", "prints", is_flag=True, help="Print the command line, and open nothing.")
@library_options
def play(place: str, player: str | None, prints: bool, data: Path | None, config: Path | None) -> None:
    """Play a video from a moment on.

    The ID may be its first characters, or the name of the video's file. TIME is seconds, m:ss or h:mm:ss.
    """
    from serve.cli.act.places import find_video, parse_place

    name, seconds = parse_place(place)
    with local_library(data, config) as library:
        video = find_video(library, name)
        chosen = player or library.settings.clip.player
    play_video(video, seconds, chosen, prints=prints)


def play_video(video: "Video", seconds: float, player: str, *, prints: bool = False) -> None:
    """Print the command line that plays a video from a time on, and run it.

    Raises:
        click.ClickException: If there is no player, no screen or nothing to play.
    """
    target = playable_of(video)
    line = command_line(target, seconds, player)
    click.echo(shlex.join(line))
    if prints:
        return
    if not has_screen():
        raise click.ClickException("there is no screen to play on: run the printed line where there is one")
    if line[0] == BROWSER:
        if not webbrowser.open(line[1]):
            raise click.ClickException("no browser opens: name a player with --player")
        return
    try:
        done = subprocess.run(line, check=False)
    except OSError as error:
        raise click.ClickException(f"{line[0]} does not start: {error.strerror}") from error
    if done.returncode:
        raise click.ClickException(f"{line[0]} ended with status {done.returncode}")


def playable_of(video: "Video") -> str:
    """Return the path or the URL of a video's media.

    Raises:
        MediaGone: If they are not kept, or gone.
    """
    from ingest.source.redaction import is_redacted
    from serve.catalog.places import place_of
    from serve.errors import MediaGone

    if video.is_live:
        raise MediaGone(video.video_id, "the media of live streams are not kept")
    place = place_of(video.uri)
    if place is None:
        reason = "its address had secrets" if is_redacted(video.uri) else "uploaded files are not kept"
        raise MediaGone(video.video_id, reason)
    if place.startswith("/") and not os.path.exists(place):
        raise MediaGone(video.video_id, f"no such file: {place}")
    return place


def command_line(target: str, seconds: float, player: str) -> list[str]:
    """Return the command line by which a player shows a path or URL from a time on.

    Raises:
        click.ClickException: If the player is not known, or there is none.
    """
    if not player:
        player = next((name for name in PLAYERS if shutil.which(name)), BROWSER)
    kind = Path(player).stem.lower()
    start = f"{seconds:.3f}"
    if kind == "mpv":
        return [player, f"--start={start}", "--", target]
    if kind in ("vlc", "cvlc"):
        return [player, f"--start-time={start}", target]
    if kind == "ffplay":
        return [player, "-ss", start, "-i", target]
    if kind == BROWSER:
        url = target if "://" in target else f"file://{quote(os.fsencode(target))}"
        return [BROWSER, f"{url}#t={start}"]
    raise click.ClickException(f"the player {player!r} is not known: mpv, vlc, ffplay or browser")


def has_screen() -> bool:
    """Whether a window can open here."""
    if sys.platform != "linux":
        return True
    return any(os.environ.get(name) for name in SCREENS)
