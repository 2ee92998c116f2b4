"""Lists the live streams of a catalog: how far each has come, and what is missing of it."""

import json
from collections.abc import Sequence

from serve.catalog.catalog import Catalog
from serve.catalog.rows import VIDEO_FIELDS, video_of
from serve.live.edited_video import STREAM_SCHEME
from serve.overview import StreamStatus
from serve.values import Video

NEWEST_COUNT = 16  # newest segments of a stream, among which is the one that was read last: revisions come for the end


def list_streams(
    catalog: Catalog,
    collections: Sequence[str] | None,
    *,
    include_ended: bool,
    after: tuple[str, str],
    limit: int,
    now: float,
) -> list[StreamStatus]:
    """Return the first live streams behind a place, by (collection, stream id). Whole files from Kafka are no streams.

    Args:
        collections: Only of these; None: of all.
        include_ended: Also those that have ended.
        after: Only streams behind this place; two empty texts: from the first on.
        now: Seconds since 1970, for the lag.
    """
    # CROSS JOIN: SQLite reads the rows of the named collections only, so that the time does not tell what others have.
    named = "" if collections is None else "(SELECT value AS name FROM json_each(?3)) CROSS JOIN "
    condition = "true" if collections is None else "collection = name"
    with catalog.snapshot():
        rows = catalog.select(
            f"SELECT watermark_moved_time, {VIDEO_FIELDS} FROM {named}videos INDEXED BY videos_live"
            f" WHERE {condition} AND state = 'READY' AND live AND (?1 OR NOT ended)"
            " AND substr(CAST(uri AS TEXT), 1, length(?2)) = ?2 AND (collection, video_id) > (?4, ?5)"
            " ORDER BY collection, video_id LIMIT ?6",
            include_ended, STREAM_SCHEME, json.dumps(collections), *after, limit,
        )  # fmt: skip
        return [_status_of(catalog, video_of(tuple(fields), None), moved, now) for moved, *fields in rows]


def _status_of(catalog: Catalog, video: Video, moved_time: float | None, now: float) -> StreamStatus:
    ((picture_seconds,),) = catalog.select("SELECT max(pts_seconds) FROM thumbnails WHERE video_row = ?", video.row)
    ((updated_time,),) = catalog.select(
        "SELECT max(added_time) FROM (SELECT added_time FROM segments WHERE video_row = ? ORDER BY position DESC"
        " LIMIT ?)", video.row, NEWEST_COUNT
    )  # fmt: skip
    faults = catalog.select(
        "SELECT start_seconds, gaps FROM segments INDEXED BY segments_gaps WHERE video_row = ? AND gaps != '[]'"
        " ORDER BY position DESC LIMIT 1", video.row
    )  # fmt: skip
    picture_time = None if picture_seconds is None else video.recorded_at(picture_seconds)
    newest_time = updated_time if picture_time is None else picture_time
    return StreamStatus(
        stream_id=video.video_id,
        collection=video.collection,
        is_ended=video.is_ended,
        start_seconds=video.span.start_seconds,
        end_seconds=video.duration_seconds,
        watermark_seconds=None if video.is_ended else video.watermark_seconds,
        watermark_moved_time=moved_time,
        picture_seconds=picture_seconds,
        picture_time=picture_time,
        updated_time=updated_time,
        lag_seconds=None if video.is_ended or newest_time is None else max(0.0, now - newest_time),
        last_error=json.loads(faults[0][1])[-1] if faults else "",
        last_error_seconds=faults[0][0] if faults else None,
    )
