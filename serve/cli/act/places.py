"""Reads how people name a moment: ID@12.3, 0:11-0:24, and the name of a file in the place of an id."""

import math
import os
import re
from typing import TYPE_CHECKING

import click

from serve.catalog.places import place_of
from serve.catalog.reader import require_single
from serve.errors import VideoNotFound
from serve.values import Video

if TYPE_CHECKING:
    from serve.search.library import Library

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)", re.ASCII)  # h:mm:ss.s, m:ss or seconds
_DASHES = re.compile("[-\u2013\u2014]")  # answers print an en dash


def parse_time(text: str) -> float:
    """Return the seconds of a time such as 83.5, 1:23.5 or 1:02:03.

    Raises:
        click.BadParameter: If it is none.
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is no time: write seconds, m:ss or h:mm:ss")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def parse_span(text: str) -> tuple[float, float]:
    """Return the start and the end, in seconds, of a span such as 0:11-0:24.

    Raises:
        click.BadParameter: If it is none, or does not end after its start.
    """
    parts = _DASHES.split(text)
    if len(parts) != 2:
        raise click.BadParameter(f"{text!r} is no span: write START-END, as in 0:11-0:24")
    start, end = map(parse_time, parts)
    if not start < end or not math.isfinite(end):
        raise click.BadParameter(f"{text!r} ends before it begins")
    return start, end


def parse_place(text: str) -> tuple[str, float]:
    """Return the name of a video and the time of ID@TIME; without a time, its start."""
    name, at, time = text.rpartition("@")
    if not at:
        return text, 0.0
    return name, parse_time(time)


def find_video(library: "Library", name: str) -> Video:
    """Return the video of an id, of the beginning of an id, or of the name or path of its file.

    Raises:
        VideoNotFound: If there is none.
        VideoAmbiguous: If there are several.
    """
    try:
        return library.video(name)
    except VideoNotFound:
        path = os.path.abspath(name)
        found = [video for video in library.videos() if _is_at(video, name, path)]
        if not found:
            raise
        return require_single(found, name)


def _is_at(video: Video, name: str, path: str) -> bool:
    """Whether a name is that of a video's file, the path of its file, or its address."""
    place = place_of(video.uri)
    return place is not None and name != "" and (place in (name, path) or os.path.basename(place) == name)
