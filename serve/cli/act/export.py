"""Writes the moments of an answer for other programs: timelines of editors (OTIO, FCPXML, EDL), and tables."""

import csv
import importlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from serve.catalog.places import place_of
from serve.client.any_library import AnyLibrary, LocalLibrary
from serve.text import printable, title
from serve.values import Moment

if TYPE_CHECKING:
    from serve.values import Video

ADAPTERS = {".otio": "otio_json", ".fcpxml": "fcpx_xml", ".edl": "cmx_3600"}  # of OpenTimelineIO, by suffix
TABLES = (".csv", ".parquet")
EXTRA = "pip install 'kinodex[export]'"
# Frame rates of timelines: a timeline has one, and an EDL knows no other. The nearest of the first video is taken.
RATES_FPS = (24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60000 / 1001, 60.0)
DEFAULT_RATE_FPS = 25.0  # where the container names none
MARKER_CHARS = 60  # of the words of a moment in the name of its marker; editors show no more
# Columns of tables, which are those of `moments --json` without its lists.
COLUMNS = (
    "video_id", "uri", "start_seconds", "end_seconds", "score", "confidence", "verdict", "visual_score",
    "speech_score", "text_score", "transcript", "best_frame_seconds", "recorded_time", "final",
)  # fmt: skip


def check_export(path: Path) -> None:
    """Check that a file of moments can be written, before any work is done.

    Raises:
        click.BadParameter: If its suffix is not known.
        click.ClickException: If the packages that it needs are not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in (*ADAPTERS, *TABLES):
        known = ", ".join([*ADAPTERS, *TABLES])
        raise click.BadParameter(f"{str(path)!r} ends in none of {known}", param_hint="'--export'")
    needed = "opentimelineio" if suffix in ADAPTERS else "pyarrow" if suffix == ".parquet" else "csv"
    try:
        importlib.import_module(needed)
    except ImportError as error:
        raise click.ClickException(f"{suffix} needs {needed}: {EXTRA}") from error


def export_moments(library: AnyLibrary, moments: tuple[Moment, ...], path: Path, question: str) -> None:
    """Write moments, best first, in the format that the suffix of a file names.

    Raises:
        OSError: If the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix in ADAPTERS:
        videos = {each.video_id: _video_of(library, each) for each in moments}
        content = write_timeline(moments, videos, question, suffix).encode("utf-8", "backslashreplace")
    elif suffix == ".csv":
        content = write_csv(moments).encode("utf-8", "backslashreplace")
    else:
        content = write_parquet(moments)
    path.write_bytes(content)


def _video_of(library: AnyLibrary, moment: Moment) -> "Video | None":
    """Return the facts about a moment's video; None: a server's, whose rate and length are not asked for."""
    return (
        library.library.catalog.video(moment.video_id, moment.collection) if isinstance(library, LocalLibrary) else None
    )


def write_timeline(moments: tuple[Moment, ...], videos: "dict[str, Video | None]", question: str, suffix: str) -> str:
    """Write moments one after the other as a timeline, each a clip of its file with a marker at its start."""
    import opentimelineio as otio

    rate = _rate_of(next((video for video in videos.values() if video is not None), None))

    def time(seconds: float) -> Any:
        return otio.opentime.RationalTime(round(seconds * rate), rate)

    timeline = otio.schema.Timeline(printable(question) or "kinodex")
    track = otio.schema.Track("moments", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    for moment in moments:
        video, start = videos.get(moment.video_id), time(moment.start_seconds)
        # At least a frame; and an end that is rounded like the start, so that a clip has the same length everywhere.
        span = otio.opentime.TimeRange(start, max(time(moment.end_seconds) - start, time(1 / rate)))
        length = video.duration_seconds if video is not None else moment.end_seconds
        whole = otio.opentime.TimeRange(time(0.0), max(time(length), span.end_time_exclusive()))
        media = otio.schema.ExternalReference(target_url=_url_of(moment.uri), available_range=whole)
        clip = otio.schema.Clip(name=title(moment.uri), media_reference=media, source_range=span)
        facts = {"video_id": moment.video_id, "verdict": str(moment.verdict), "confidence": round(moment.confidence, 4)}
        words = printable(moment.transcript)[:MARKER_CHARS] or printable(question)[:MARKER_CHARS]
        at = otio.opentime.TimeRange(start, time(0.0))
        clip.markers.append(otio.schema.Marker(name=words, marked_range=at, color="GREEN", metadata={"kinodex": facts}))
        track.append(clip)
    options = {"rate": rate} if suffix == ".edl" else {}
    return str(otio.adapters.write_to_string(timeline, adapter_name=ADAPTERS[suffix], **options))


def _rate_of(video: "Video | None") -> float:
    """Return the frame rate of editors that is nearest to a video's."""
    stated = video.media.frame_rate_fps if video is not None else None
    return min(RATES_FPS, key=lambda rate: abs(rate - (stated or DEFAULT_RATE_FPS)))


def _url_of(uri: str) -> str:
    place = place_of(uri)
    return f"file://{quote(os.fsencode(place))}" if place is not None and place.startswith("/") else uri


def _rows(moments: tuple[Moment, ...]) -> list[dict[str, Any]]:
    from serve.cli.render import moment_json

    return [{name: value for name, value in moment_json(each).items() if name in COLUMNS} for each in moments]


def write_csv(moments: tuple[Moment, ...]) -> str:
    """Write moments as CSV with a line of names (RFC 4180)."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    writer.writerows(_rows(moments))
    return file.getvalue()


def write_parquet(moments: tuple[Moment, ...]) -> bytes:
    """Write moments as Parquet, with the columns of the CSV."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"video_id": pa.string(), "uri": pa.string(), "verdict": pa.string(), "transcript": pa.string()}
    kinds |= {"recorded_time": pa.string(), "final": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in COLUMNS])
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(_rows(moments), schema=schema), sink)
    return bytes(sink.getvalue())
