"""EditedVideo and write_video: the columns of a live video that follow from its segments, for LiveEdit."""

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from ingest.source.redaction import redact_uri
from serve.catalog.live_blocks import epoch_range
from serve.catalog.rows import metadata_json, uri_bytes
from serve.codec.records import SegmentRecord
from serve.text import plural
from serve.video_warnings import MANY_GAPS, live_jump_warning

STREAM_SCHEME = "stream:"  # of the URI of a live stream, which has none of its own
GAP_WARNING_COUNT = 10  # the last gaps of a video are listed among its warnings: bounds their length


@dataclass(slots=True, kw_only=True)
class EditedVideo:
    """A live video that the transaction changes."""

    row: int
    name: tuple[str, str]  # collection and id
    watermark_seconds: float  # the highest of its segments; -inf: none yet
    last_position: int  # of its segments; -1: none yet
    latest: SegmentRecord | None = None  # the record of the last segment, if it was put here: it describes the video
    removed_watermark: float = -math.inf  # the highest of the segments that were removed and not replaced
    is_touched: bool = False
    epochs: set[int] = field(default_factory=set)  # in which segments were put or removed
    blocks: set[int] = field(default_factory=set)  # likewise
    # By how much the video grew; negative if it shrank.
    segment_count: int = 0
    frame_count: int = 0
    utterance_count: int = 0
    text_line_count: int = 0
    size_bytes: int = 0


def write_video(edit: sqlite3.Connection, video: EditedVideo, now: float) -> None:
    """Write the columns of a video that follow from its segments."""
    old_watermark, anchors, is_stream = edit.execute(
        "SELECT watermark_seconds, anchors, CAST(uri AS TEXT) LIKE ? FROM videos WHERE row = ?",
        (f"{STREAM_SCHEME}%", video.row),
    ).fetchone()
    watermark = video.watermark_seconds
    if video.removed_watermark >= watermark:
        (watermark,) = edit.execute(
            "SELECT max(watermark_seconds) FROM segments WHERE video_row = ?", (video.row,)
        ).fetchone()
    anchors = _anchors(edit, video, json.loads(anchors))
    newest = edit.execute(
        "SELECT end_seconds, last, epoch FROM segments WHERE video_row = ? ORDER BY position DESC LIMIT 2", (video.row,)
    ).fetchall()  # the last segment may be cut short: the segment before it can end later
    jump_count = newest[0][2] if is_stream else 0  # the warnings of a whole file name its jumps
    edit.execute(
        "UPDATE videos SET frame_count = frame_count + ?, segment_count = segment_count + ?,"
        " utterance_count = utterance_count + ?, text_line_count = text_line_count + ?, size_bytes = size_bytes + ?,"
        " duration_seconds = ?, ended = ?,"
        " watermark_seconds = ?, watermark_moved_time = iif(?, ?, watermark_moved_time), anchors = ?,"
        " recorded_time = ?, warnings = ? WHERE row = ?",
        (video.frame_count, video.segment_count, video.utterance_count, video.text_line_count, video.size_bytes,
         max(end for end, _, _ in newest), newest[0][1], watermark, watermark != old_watermark, now,
         json.dumps(anchors), anchors[0][2] - anchors[0][1] if anchors else None,
         json.dumps(_warnings(edit, video.row, jump_count)), video.row),
    )  # fmt: skip
    if video.latest is not None:
        record = video.latest
        edit.execute(
            "UPDATE videos SET uri = ?, media = ?, metadata = ? WHERE row = ?",
            (uri_bytes(listed_uri(record)), json.dumps(asdict(record.media)), metadata_json(record.metadata),
             video.row),
        )  # fmt: skip


def _anchors(edit: sqlite3.Connection, video: EditedVideo, known: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return [epoch, media seconds, seconds since 1970] for each epoch with a clock.

    An anchor stands at the start of the epoch's first segment here. Its time is computed from the latest segment
    with a recorded time.
    """
    anchors = {int(epoch): [epoch, *rest] for epoch, *rest in known}
    for epoch in video.epochs:
        bounds = (video.row, *epoch_range(epoch))
        latest = edit.execute(
            "SELECT start_seconds, recorded_time FROM segments INDEXED BY segments_recorded WHERE video_row = ?"
            " AND position BETWEEN ? AND ? AND recorded_time IS NOT NULL ORDER BY position DESC LIMIT 1", bounds
        ).fetchone()  # fmt: skip
        if latest is None:
            anchors.pop(epoch, None)
            continue
        (start,) = edit.execute(
            "SELECT start_seconds FROM segments WHERE video_row = ? AND position BETWEEN ? AND ?"
            " ORDER BY position LIMIT 1", bounds
        ).fetchone()  # fmt: skip
        anchors[epoch] = [epoch, start, latest[1] - (latest[0] - start)]
    return [anchors[epoch] for epoch in sorted(anchors)]


def _warnings(edit: sqlite3.Connection, row: int, jump_count: int) -> list[str]:
    """Return the warnings of a video's segments: of its last gaps, or of a whole file; and of a stream's jumps."""
    last = edit.execute(
        "SELECT gaps FROM segments INDEXED BY segments_gaps WHERE video_row = ? AND gaps != '[]'"
        " ORDER BY position DESC LIMIT ?", (row, GAP_WARNING_COUNT)
    ).fetchall()  # fmt: skip
    gaps = [gap for (texts,) in reversed(last) for gap in json.loads(texts)]
    if len(last) == GAP_WARNING_COUNT:
        gaps = gaps[-GAP_WARNING_COUNT:]
        gaps.insert(0, MANY_GAPS.text.format(gaps=plural(GAP_WARNING_COUNT, "gap")))
    if jump_count:
        gaps.append(live_jump_warning(jump_count))
    return gaps


def listed_uri(record: SegmentRecord) -> str:
    """Return the URI under which a segment's video is listed: that of its file, or the name of its stream."""
    return redact_uri(record.uri) or f"{STREAM_SCHEME}{record.collection}/{record.video_id}"
