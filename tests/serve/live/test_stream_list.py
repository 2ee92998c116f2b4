"""What a server lists of the live streams in its catalog."""

from pathlib import Path
from typing import Any

from serve.catalog.catalog import Catalog
from serve.codec.overviews import stream_message, stream_value
from serve.codec.records import Gap, SegmentRecord
from serve.live.live_rows import LiveRows
from serve.live.stream_list import list_streams
from serve.overview import StreamStatus
from support.sample_catalog import FINGERPRINT, put
from support.sample_live import STARTED, live_segment

READ = STARTED + 50.0  # when the server reads the records


def listed(reader: Catalog, collections: Any = None, **changes: Any) -> list[StreamStatus]:
    given = {"include_ended": True, "after": ("", ""), "limit": 100, "now": STARTED + 60.0, **changes}
    return list_streams(reader, collections, **given)


def put_live(catalog: Catalog, *records: SegmentRecord) -> None:
    LiveRows(catalog, FINGERPRINT, clock=lambda: READ).apply(records, {})


def test_a_stream_says_how_far_it_is_and_what_is_missing(catalog: Catalog, reader: Catalog) -> None:
    gap = Gap(at_seconds=9.0, first_sequence=4, chunk_count=2, reason="MISSING")
    put_live(catalog, live_segment(0), live_segment(1, is_final=False, gaps=[gap]))
    [stream] = listed(reader)
    assert (stream.stream_id, stream.collection, stream.is_ended) == ("cam", "default", False)
    assert (stream.start_seconds, stream.end_seconds, stream.watermark_seconds) == (0.0, 24.0, 16.0)
    assert (stream.watermark_moved_time, stream.updated_time) == (READ, READ)
    assert (stream.picture_seconds, stream.picture_time, stream.lag_seconds) == (23.0, STARTED + 23.0, 37.0)
    assert stream.last_error == str(gap)
    assert stream.last_error_seconds == 8.0
    assert stream_value(stream_message(stream)) == stream


def test_without_a_clock_the_lag_counts_from_the_last_record(catalog: Catalog, reader: Catalog) -> None:
    put_live(catalog, live_segment(0, recorded_from=None))
    [stream] = listed(reader)
    assert (stream.picture_time, stream.lag_seconds) == (None, 10.0)
    assert stream.last_error == ""


def test_ended_streams_come_if_they_are_asked_for_and_files_never(catalog: Catalog, reader: Catalog) -> None:
    put(catalog, "file")
    put_live(
        catalog,
        live_segment(0, video_id="whole", uri="file:///film.mp4"),
        live_segment(0, video_id="over", is_last=True),
        live_segment(0, video_id="on"),
        live_segment(0, video_id="other", collection="others"),
    )
    assert [each.stream_id for each in listed(reader)] == ["on", "over", "other"]
    assert [each.stream_id for each in listed(reader, include_ended=False)] == ["on", "other"]
    assert [each.stream_id for each in listed(reader, ["others"])] == ["other"]
    assert [each.stream_id for each in listed(reader, limit=1, after=("default", "on"))] == ["over"]
    over = listed(reader)[1]
    assert (over.is_ended, over.lag_seconds, over.watermark_seconds) == (True, None, None)


def test_a_pruned_stream_begins_where_it_does(catalog: Catalog, reader: Catalog, tmp_path: Path) -> None:
    put_live(catalog, live_segment(5))
    [stream] = listed(reader)
    assert (stream.start_seconds, stream.end_seconds) == (40.0, 56.0)
