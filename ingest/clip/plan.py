"""Finds where decoding must begin so that the picture of a time can be shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from av.stream import Stream
from av.video.stream import VideoStream

from ingest.clip.source import ClipSource, MediaPacket, lacks_pts

# Reading begins this long before the time: containers store sound up to a second before or after its pictures.
SOUND_LEAD_SECONDS = 1
SUBTITLE_LEAD_SECONDS = 10  # and this long where there are subtitles: the line of a time may have begun so long ago
# Without decoding times, pictures that are shown before a time are stored at most this long after it.
REORDER_SECONDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """Where to read from, and the first packets of the anchor track (ingest.clip.source.Tracks). Media times."""

    begin: Fraction | None  # to read from; None: from the beginning of the file
    key: Fraction | None  # presentation time of the keyframe to begin with; None: the first packet
    cover: Fraction | None  # presentation time of the packet shown at the start; None: nothing is shown then


def make_plan(source: ClipSource, start: Fraction) -> ClipPlan:
    """ClipPlan a clip that begins at a media time: read as little as the container's index allows."""
    for back in source.steps_back():
        with source.open() as tracks:
            if tracks.video is not None and lacks_pts(tracks.video):
                return ClipPlan(
                    begin=None, key=None, cover=None
                )  # only from the beginning is it known what is shown when
            lead = SUBTITLE_LEAD_SECONDS if tracks.subtitles else SOUND_LEAD_SECONDS
            begin = None if back is None else start - lead - back
            if begin is not None and begin <= 0:
                begin = None
            key, cover = _find_key(source.read(tracks, begin), tracks.anchor, start)
        if key is not None or begin is None:
            return ClipPlan(begin=begin, key=key, cover=cover)
    raise AssertionError("the last step reads from the beginning")


def _find_key(
    packets: Iterable[MediaPacket], anchor: Stream, start: Fraction
) -> tuple[Fraction | None, Fraction | None]:
    """Return the presentation times of the last keyframe at or before a time, and of the packet shown then."""
    key: Fraction | None = None
    cover: Fraction | None = None
    is_intra = not isinstance(anchor, VideoStream) or anchor.codec_context.codec.intra_only
    for each in packets:
        if each.packet.stream.index != anchor.index:
            continue
        if each.pts <= start:
            if is_intra or each.packet.is_keyframe:
                key = cover = each.pts
            elif key is not None and cover is not None:
                cover = max(cover, each.pts)
        if (each.dts if each.dts is not None else each.pts - REORDER_SECONDS) > start:
            break
    return key, cover
