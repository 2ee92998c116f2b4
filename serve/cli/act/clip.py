"""The command `kinodex clip`: a part of a video as a file."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve.cli.options import json_option, library_options, local_library

if TYPE_CHECKING:
    from ingest.values import Clip, Cut
    from serve.clips.maker import ClipMaker
    from serve.values import Video


@click.command(
    epilog="""\b
Examples:
  kinodex clip 3fa9 0:11-0:24 -o cup.mp4              a copy: nothing is encoded, so it takes no time
  kinodex clip holiday.mp4 61.5-75 --exact -o dog.mp4  encoded anew, for programs that ignore edit lists

\b
A copy holds the pictures from the keyframe before the start on, and an edit list that has players begin at the start.
What MP4 players do not take (VP8, MPEG-2, Vorbis, …) is encoded anew."""
)
@click.argument("name", metavar="ID|FILE")
@click.argument("span", metavar="START-END")
@click.option("-o", "--out", metavar="FILE.mp4", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--exact", "is_exact", is_flag=True, help="Encode anew: H.264 and AAC, upright, in 8 bits.")
@json_option
@library_options
def clip(
    name: str, span: str, out: Path, is_exact: bool, as_json: bool, data: Path | None, config: Path | None
) -> None:
    """Cut a part out of a video, as MP4.

    The ID may be its first characters, or the name of the video's file. Times are seconds, m:ss or h:mm:ss.
    """
    from ingest.values import Cut
    from serve.cli.act.places import find_video, parse_span
    from serve.clips.maker import ClipMaker
    from serve.text import to_json

    start, end = parse_span(span)
    if out.suffix.lower() not in (".mp4", ".m4v", ".m4a"):
        raise click.BadParameter(f"{str(out)!r} does not end in .mp4", param_hint="'--out'")
    with local_library(data, config) as library:
        video = find_video(library, name)
        with ClipMaker(library.catalog, library.directory, library.settings) as maker:
            made = write_clip(maker, video, Cut(start_seconds=start, end_seconds=end, is_exact=is_exact), out)
    if as_json:
        click.echo(to_json(clip_json(video, made, out)))
    else:
        click.echo(describe_clip(made, out))


def write_clip(maker: "ClipMaker", video: "Video", wanted: "Cut", out: Path) -> "Clip":
    """Write a clip into a file, which appears when it is complete.

    Raises:
        OSError: If the file cannot be written.
        IngestError: As ClipMaker.make(), and ServeError.
    """
    descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part")
    try:
        with open(descriptor, "w+b") as file:
            made = maker.make(video, wanted, file)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return made


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def describe_clip(made: "Clip", out: Path) -> str:
    """Say what a clip is, for people."""
    from serve.text import printable, time_span

    size = made.size_bytes / 1e6
    how = [f"pictures {made.video}"] if made.video is not None else []
    how += [f"sound {', '.join(sorted(set(made.sounds)))}"] if made.sounds else []
    how += ["subtitles"] if made.subtitle_count else []
    how += [f"left out: {', '.join(made.left_out)}"] if made.left_out else []
    span = time_span(made.start_seconds, made.end_seconds)
    return f"wrote {printable(str(out))}  {span}  {size:.1f} MB  ({'; '.join(how)})"


def clip_json(video: "Video", made: "Clip", out: Path) -> dict[str, object]:
    """Return the object that `clip --json` prints."""
    return {
        "video_id": video.video_id,
        "uri": video.uri,
        "file": str(out),
        "start_seconds": made.start_seconds,
        "end_seconds": made.end_seconds,
        "video": made.video,
        "sounds": list(made.sounds),
        "subtitle_count": made.subtitle_count,
        "left_out": list(made.left_out),
        "size_bytes": made.size_bytes,
    }
