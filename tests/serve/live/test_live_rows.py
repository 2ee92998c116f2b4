"""Live videos in the catalog: the same changes end in the same rows, in any order and however often applied."""

import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.catalog.catalog import Catalog
from serve.catalog.rows import words_of
from serve.catalog.swap import replace_videos
from serve.catalog.text_lines import text_lines
from serve.codec.records import Gap, read_segment, segment_bytes
from serve.config import Limit, Retention
from serve.errors import VideoNotFound
from serve.live import edited_video, live_edit
from serve.live.live_rows import Change, ChangeOutcome, DeletionRecord, LiveRows, SegmentKey, Tombstone
from serve.values import Filter, Video
from support.marks import first_quick
from support.sample_catalog import FINGERPRINT, MEDIA, SPACE, check, frames, new_video, put, put_version
from support.sample_live import LENGTH, LIVE_MEDIA, STARTED, STRIDE, live_segment, make_utterance
from temporal.values import TimeSpan

NOW = STARTED + 1e6


@pytest.fixture
def live(catalog: Catalog, tmp_path: Path) -> Iterator[LiveRows]:
    """Beside a writer, as a server is."""
    with Catalog.open_editor(tmp_path) as editor:
        yield LiveRows(editor, FINGERPRINT, clock=lambda: NOW)


def put_live(live: LiveRows, *changes: Change) -> tuple[ChangeOutcome, ...]:
    return live.apply(changes, {}).outcomes


def only_video(catalog: Catalog) -> Video:
    (video,) = catalog.videos()
    return video


def tables(catalog: Catalog) -> dict[str, list[Any]]:
    """Return all that live videos have, without the numbers of the rows."""
    named = "SELECT collection, video_id, {} FROM {} JOIN videos ON videos.row = {}.video_row"
    segment_fields = (
        "position, segment_id, epoch, segment_index, start_seconds, end_seconds, vector, revision, final,"
        " source_append_time, segments.recorded_time, segments.watermark_seconds, last, gaps, segments.size_bytes"
    )
    queries = {
        "videos": "SELECT collection, video_id, uri, fingerprint, state, live, ended, media, metadata,"
        " duration_seconds, frame_count, segment_count, utterance_count, text_line_count, warnings,"
        " recorded_time, watermark_seconds, anchors, size_bytes"
        " FROM videos",
        "segments": named.format(segment_fields, "segments", "segments"),
        "frames": named.format("epochs, pts_seconds, vectors", "frame_blocks", "frame_blocks"),
        "thumbnails": named.format("pts_seconds, jpeg", "thumbnails", "thumbnails"),
        "utterances": named.format(
            "position, epoch, start_seconds, end_seconds, text, search_text, words, vector", "utterances", "utterances"
        ),
        "lines": named.format(
            "position, epoch, start_seconds, end_seconds, text, search_text, box, confidence, vector",
            "text_lines",
            "text_lines",
        ),
        "found": "SELECT video_id, text FROM utterance_search JOIN utterances ON utterances.id = utterance_search.rowid"
        " JOIN videos ON videos.row = video_row WHERE utterance_search MATCH 'second'",
        "deletions": "SELECT * FROM deletions",
        "offsets": "SELECT * FROM consumed_offsets",
    }
    return {name: sorted(catalog.select(sql)) for name, sql in queries.items()}


def check_whole(catalog: Catalog) -> None:
    """Check what must hold after every transaction."""
    for row, frame_count, segment_count, utterance_count, line_count, size, watermark, duration in catalog.select(
        "SELECT row, frame_count, segment_count, utterance_count, text_line_count, size_bytes, watermark_seconds,"
        " duration_seconds"
        " FROM videos WHERE live"
    ):
        ((counted, sizes, last, end),) = catalog.select(
            "SELECT count(*), sum(size_bytes), max(watermark_seconds), max(end_seconds) FROM segments"
            " WHERE video_row = ?", row
        )  # fmt: skip
        assert (segment_count, size, watermark, duration) == (counted, sizes, last, end)
        assert counted  # else the video is gone
        stored, heard = catalog.frames(row), catalog.utterances(row)
        assert len(stored.pts_seconds) == frame_count
        assert (np.diff(stored.pts_seconds) > 0).all()
        assert (np.diff(stored.epochs) >= 0).all()
        assert len(heard) == utterance_count == len(catalog.utterance_vectors(row))
        assert len(text_lines(catalog, row)) == line_count
        assert [one.start_seconds for one in heard] == sorted(one.start_seconds for one in heard)
        blocks = {block for (block,) in catalog.select("SELECT block FROM live_blocks WHERE video_row = ?", row)}
        assert blocks >= {at >> 6 for (at,) in catalog.select("SELECT position FROM segments WHERE video_row = ?", row)}
    for table in ("frame_blocks", "thumbnails", "utterances", "text_lines"):
        assert catalog.select(f"SELECT count(*) FROM {table} WHERE segment_row NOT IN (SELECT id FROM segments)") == [
            (0,)
        ]
    with sqlite3.connect(catalog.directory / "catalog.sqlite") as connection:
        connection.execute("INSERT INTO utterance_search (utterance_search, rank) VALUES ('integrity-check', 1)")
        connection.execute("INSERT INTO text_line_search (text_line_search, rank) VALUES ('integrity-check', 1)")
    connection.close()


# ---- a stream as it comes


def test_a_stream_grows_and_is_read_like_any_video(live: LiveRows, catalog: Catalog) -> None:
    for index in range(4):
        assert put_live(live, live_segment(index, is_final=index < 2)) == (ChangeOutcome.APPLIED,)
        check_whole(catalog)
    video = only_video(catalog)
    assert (video.video_id, video.collection, video.uri) == ("cam", "default", "stream:default/cam")
    assert (video.is_live, video.is_ended, video.media) == (True, False, LIVE_MEDIA)
    assert (video.duration_seconds, video.frame_count, video.segment_count, video.utterance_count) == (40.0, 40, 4, 5)
    assert video.watermark_seconds == 24.0
    assert catalog.frames(video.row).pts_seconds.tolist() == list(range(40))
    assert catalog.thumbnail(video.row, 30.2) == (30.0, b"jpeg of 30")
    assert [one.text for one in catalog.utterances(video.row)] == [f"second {n} of cam" for n in (0, 8, 16, 24, 32)]
    assert [one.segment_id for one in catalog.segments(video.row)] == [f"cam/0/{n}" for n in range(4)]
    assert len(catalog.match_words(["second"], limit=10)) == 5
    assert catalog.document_frequencies(["second"]) == ({"second": 5}, 5)


def test_a_record_read_back_from_kafka_makes_the_same_rows(live: LiveRows, catalog: Catalog) -> None:
    records = [live_segment(n, gaps=[Gap(at_seconds=3.0, first_sequence=1, chunk_count=2, reason="MISSING")])
               for n in range(3)]  # fmt: skip
    put_live(live, *records)
    direct = tables(catalog)
    catalog.delete("cam")
    with live.catalog.editing() as edit:
        edit.execute("DELETE FROM deletions")
    put_live(live, *(read_segment(segment_bytes(record)) for record in records))
    again = tables(catalog)
    vectors = ("segments", "utterances")  # sent as float16
    assert {name: rows for name, rows in direct.items() if name not in vectors} == {
        name: rows for name, rows in again.items() if name not in vectors
    }


def test_the_highest_revision_stays(live: LiveRows, catalog: Catalog) -> None:
    first, second = live_segment(0, known_seconds=5, is_final=False), live_segment(0, known_seconds=12, is_final=False)
    final = live_segment(0, texts=["It's Paris", "of course"])
    assert put_live(live, second, first, second, final) == (
        ChangeOutcome.APPLIED, ChangeOutcome.STALE, ChangeOutcome.STALE, ChangeOutcome.APPLIED,
    )  # fmt: skip
    assert put_live(live, second) == (ChangeOutcome.STALE,)
    video = only_video(catalog)
    assert [one.text for one in catalog.utterances(video.row)] == ["It's Paris", "of course"]
    assert (video.frame_count, video.duration_seconds) == (16, 16.0)
    assert catalog.match_words(["second"], limit=5) == []


def test_a_late_revision_of_an_early_segment_keeps_everything_in_order(live: LiveRows, catalog: Catalog) -> None:
    put_live(live, *(live_segment(n, texts=["a", "b"], is_final=False) for n in range(5)))
    late = live_segment(1)
    many = tuple(make_utterance(f"word{n}", 16.5 + n) for n in range(5))
    more = replace(
        late, utterances=(late.utterances[0], *many), utterance_vectors=late.utterance_vectors[[0, 1, 1, 1, 1, 1]],
        revision=99,
    )  # fmt: skip
    put_live(live, more)
    check_whole(catalog)
    texts = [one.text for one in catalog.utterances(only_video(catalog).row)]
    assert texts == ["a", "b", "word0", "word1", "word2", "word3", "word4", "b", "b", "b"]


def test_positions_of_utterances_give_their_words(live: LiveRows, catalog: Catalog) -> None:
    put_live(live, *(live_segment(n) for n in range(4)))
    row = only_video(catalog).row
    (found,) = catalog.match_words(["24"], limit=5)
    (spoken,) = catalog.utterances_at([(row, found.position)])
    assert [word.text for word in words_of(spoken.words)] == ["second", "24", "of", "cam"]
    ids, _ = catalog.row_ids("utterances", row)
    places = catalog.locate("utterances", ids.tolist())
    assert places == sorted(places)


def test_knows_what_is_final_and_when_a_stream_ends(live: LiveRows, catalog: Catalog) -> None:
    put_live(live, live_segment(0), live_segment(1, is_final=False, watermark_seconds=8.0))
    video = only_video(catalog)
    assert video.watermark_seconds == 16.0  # it never goes back
    assert (video.is_final_until(16.0), video.is_final_until(16.1)) == (True, False)
    assert [(one.video_id, one.watermark_seconds, one.moved_time) for one in live.watermarks()] == [("cam", 16.0, NOW)]
    put_live(live, live_segment(1, is_last=True))
    assert only_video(catalog).is_ended
    assert only_video(catalog).is_final_until(1e9)
    assert live.watermarks() == []
    put_live(live, live_segment(0, epoch=1, epoch_start=24.0, is_final=False))  # it goes on after all
    assert not only_video(catalog).is_ended


def test_a_watermark_and_an_end_are_taken_from_what_is_otherwise_known(live: LiveRows, catalog: Catalog) -> None:
    record = live_segment(0, watermark_seconds=8.0)
    put_live(live, record)
    generation = catalog.generation()
    assert put_live(live, record) == (ChangeOutcome.STALE,)
    assert catalog.generation() == generation  # nothing to do
    assert put_live(live, replace(record, watermark_seconds=16.0, is_last=True)) == (ChangeOutcome.STALE,)
    assert (only_video(catalog).watermark_seconds, only_video(catalog).is_ended) == (16.0, True)
    assert catalog.generation() == generation + 1


def test_text_in_pictures_is_found_revised_and_goes_with_its_segment(live: LiveRows, catalog: Catalog) -> None:
    def found(word: str) -> list[int]:
        return [match.position for match in catalog.match_words([word], limit=10, kind="text_lines")]

    put_live(live, live_segment(0, written="departures"), live_segment(1, written="departures"))
    first, second = text_lines(catalog, only_video(catalog).row)
    assert (first.start_seconds, first.end_seconds, second.start_seconds, second.end_seconds) == (0.0, 16.0, 16.0, 24.0)
    assert (len(found("departure")), only_video(catalog).text_line_count) == (2, 2)
    check_whole(catalog)
    revised = live_segment(1, written="arrivals")
    put_live(live, replace(revised, revision=revised.revision + 1))
    assert (len(found("departure")), len(found("arrivals"))) == (1, 1)
    check_whole(catalog)
    excess = live.prune(Retention(limits={"*": Limit(age_seconds=NOW - STARTED - 4)}), NOW, 10)
    assert [one.segment.segment_id for one in excess] == ["cam/0/0"]
    assert (found("departure"), len(found("arrivals")), only_video(catalog).text_line_count) == ([], 1, 1)
    check_whole(catalog)
    live.delete("default", "cam", NOW)
    assert found("arrivals") == []
    check_whole(catalog)


def test_tells_of_gaps_and_jumps(live: LiveRows, catalog: Catalog) -> None:
    gap = Gap(at_seconds=3.0, first_sequence=1, chunk_count=2, reason="MISSING")
    put_live(live, live_segment(0, gaps=[gap]), live_segment(0, epoch=1, epoch_start=16.0))
    assert only_video(catalog).warnings == (
        "2 chunks are missing at 3.0 s (MISSING)",
        "its timestamps jump once: times run on without the jumps",
    )
    many = [replace(gap, at_seconds=16.0 + 8 * n) for n in range(20)]
    put_live(live, *(live_segment(n, epoch=1, epoch_start=16.0, gaps=[many[n]]) for n in range(1, 20)))
    warnings = only_video(catalog).warnings
    assert len(warnings) == 12
    assert "168.0 s" in warnings[-2]


def test_a_file_has_the_warnings_of_its_last_segment(live: LiveRows, catalog: Catalog) -> None:
    faults = ("it is cut off at 0:24", "its timestamps jump at 0:16: times run on without the jumps")
    first = live_segment(0, uri="https://example.org/a.mp4")
    last = live_segment(0, epoch=1, epoch_start=16.0, is_last=True, uri="https://example.org/a.mp4")
    put_live(live, first, replace(last, revision=last.revision - 1, is_final=False))
    assert only_video(catalog).warnings == ()
    put_live(live, read_segment(segment_bytes(replace(last, warnings=faults))))
    assert only_video(catalog).warnings == faults
    put_live(live, replace(first, revision=first.revision + 1))
    assert only_video(catalog).warnings == faults


def test_the_wall_clock_jumps_with_the_epochs(live: LiveRows, catalog: Catalog) -> None:
    put_live(live, *(live_segment(n) for n in range(3)))  # to second 32
    put_live(live, *(live_segment(n, epoch=1, epoch_start=32.0, recorded_from=STARTED + 968) for n in range(3)))
    put_live(live, live_segment(0, epoch=2, epoch_start=64.0, recorded_from=STARTED - 564))  # the clock went back
    video = only_video(catalog)
    assert video.recorded_time == STARTED
    assert [video.recorded_at(at) for at in (0.0, 31.5, 32.0, 40.0, 64.0)] == [
        STARTED, STARTED + 31.5, STARTED + 1000, STARTED + 1008, STARTED - 500,
    ]  # fmt: skip
    assert list(video.recorded_spans(TimeSpan(start_seconds=24.0, end_seconds=32.0))) == [(STARTED + 24, STARTED + 32)]
    for start, end, is_in in (
        (STARTED + 10, STARTED + 20, True),
        (STARTED + 40, STARTED + 900, False),
        (STARTED + 1010, STARTED + 1011, True),
        (STARTED - 490, STARTED - 485, True),
        (STARTED - 400, STARTED - 10, False),
    ):
        assert Filter(recorded_from=start, recorded_until=end).admits(video) is is_in
    put_live(live, live_segment(3, recorded_from=None))  # says nothing of the clock
    assert only_video(catalog).recorded_at(30.0) == STARTED + 30
    put_live(live, live_segment(0, video_id="timeless", recorded_from=None))
    assert catalog.video("timeless").recorded_at(3.0) is None
    assert not Filter(recorded_from=0.0).admits(catalog.video("timeless"))


def test_offsets_are_kept_for_each_encoder_space(live: LiveRows) -> None:
    assert live.offsets("segments") == {}
    live.apply([live_segment(0)], {("segments", 0): 5, ("segments", 3): 7, ("deletions", 0): 1})
    live.apply([], {("segments", 3): 9})
    assert live.offsets("segments") == {0: 5, 3: 9}
    assert live.offsets("deletions") == {0: 1}
    assert LiveRows(live.catalog, "other").offsets("segments") == {}


# ---- what is left out


def test_leaves_out_what_is_of_other_encoders(live: LiveRows, catalog: Catalog) -> None:
    assert put_live(live, live_segment(0, fingerprint="other")) == (ChangeOutcome.FOREIGN,)
    assert catalog.videos() == []
    live.apply([live_segment(0)], {("segments", 0): 1})
    others = LiveRows(live.catalog, "other", clock=lambda: NOW)
    assert others.apply([live_segment(1, fingerprint="other")], {("segments", 0): 2}).outcomes == (
        ChangeOutcome.APPLIED,
    )
    video = only_video(catalog)  # the newer encoders' takes its place
    assert (video.segment_count, catalog.ready_count("other")) == (1, 1)
    assert live.offsets("segments") == {}  # so whoever goes back begins at the beginning
    check_whole(catalog)


@pytest.mark.parametrize(
    "changes",
    [
        {"video_id": "another"},
        {"thumbnails": (b"",) * 17},
        {"continued_count": 3},
        {"utterance_vectors": np.zeros((0, 8), np.float32)},
        {"line_vectors": np.zeros((3, 8), np.float32)},
    ],
)
def test_refuses_what_contradicts_itself_and_goes_on(
    live: LiveRows, catalog: Catalog, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert put_live(live, replace(live_segment(0), **changes), live_segment(1)) == (
        ChangeOutcome.REFUSED,
        ChangeOutcome.APPLIED,
    )
    assert "segment refused segment_id=cam/0/0" in caplog.text
    assert only_video(catalog).segment_count == 1


def test_refuses_vectors_of_another_width(live: LiveRows, catalog: Catalog) -> None:
    assert put_live(live, live_segment(0), live_segment(1, width=4)) == (ChangeOutcome.APPLIED, ChangeOutcome.REFUSED)
    check_whole(catalog)


def test_a_file_of_the_same_name_goes_before(live: LiveRows, catalog: Catalog) -> None:
    put_live(live, live_segment(0))
    put_version(catalog, "cam", 1)  # in its place
    assert put_live(live, live_segment(0), live_segment(1), Tombstone(segment_id="cam/0/0", collection="default")) == (
        ChangeOutcome.TAKEN, ChangeOutcome.TAKEN, ChangeOutcome.GONE,
    )  # fmt: skip
    assert put_live(live, DeletionRecord(collection="default", video_id="cam", append_time=NOW)) == (
        ChangeOutcome.GONE,
    )
    assert check(catalog) == {"cam": 1}
    assert live.delete("default", "cam", NOW) == []
    assert check(catalog) == {"cam": 1}
    catalog.delete("cam")
    assert put_live(live, live_segment(2, appended=NOW + 1)) == (ChangeOutcome.APPLIED,)
    check_whole(catalog)


# ---- what goes


def test_a_tombstone_takes_a_segment_and_the_last_one_the_video(live: LiveRows, catalog: Catalog) -> None:
    put_live(live, live_segment(0), live_segment(1), live_segment(0, collection="zoo"))
    assert put_live(live, Tombstone(segment_id="cam/0/0", collection="default")) == (ChangeOutcome.REMOVED,)
    assert catalog.frames(catalog.video("cam", "default").row).pts_seconds.tolist() == list(range(16, 24))
    last = Tombstone(segment_id="cam/0/1", collection="default")
    assert put_live(live, last, last) == (ChangeOutcome.REMOVED, ChangeOutcome.GONE)
    assert [video.collection for video in catalog.videos()] == ["zoo"]
    assert catalog.match_words(["16"], limit=5) == []
    check_whole(catalog)


def test_a_deletion_counts_for_what_was_appended_before_it(live: LiveRows, catalog: Catalog) -> None:
    deletion = DeletionRecord(collection="default", video_id="cam", append_time=STARTED + 20)
    put_live(live, *(live_segment(n) for n in range(5)))  # appended at 0, 8, 16, 24, 32
    assert put_live(live, deletion, deletion) == (ChangeOutcome.REMOVED, ChangeOutcome.GONE)
    video = only_video(catalog)
    assert [one.index for one in catalog.segments(video.row)] == [3, 4]
    assert video.watermark_seconds == 48.0
    applied = live.apply([live_segment(2), live_segment(5), live_segment(0, collection="zoo")], {})
    assert applied.outcomes == (ChangeOutcome.DEAD, ChangeOutcome.APPLIED, ChangeOutcome.APPLIED)
    assert applied.dead == (SegmentKey("default", "cam", "cam/0/2"),)
    assert applied.counts[ChangeOutcome.APPLIED] == 2
    check_whole(catalog)


def test_deleting_is_at_once_and_lasts(live: LiveRows, catalog: Catalog) -> None:
    records = [live_segment(n) for n in range(3)]
    put_live(live, *records)
    row = only_video(catalog).row
    assert live.delete("default", "cam", STARTED + 3) == ["cam/0/0", "cam/0/1", "cam/0/2"]  # also the later ones
    assert catalog.videos() == []
    with pytest.raises(VideoNotFound):
        catalog.frames(row)
    assert put_live(live, *records) == (ChangeOutcome.DEAD,) * 3
    assert put_live(live, live_segment(3)) == (ChangeOutcome.APPLIED,)
    assert live.delete("default", "nobody", NOW) == []
    assert put_live(live, live_segment(3, video_id="nobody")) == (ChangeOutcome.DEAD,)


def test_a_video_deleted_by_hand_does_not_come_back(live: LiveRows, catalog: Catalog) -> None:
    records = [live_segment(n) for n in range(3)]
    put_live(live, *records)
    live.catalog.delete("cam")
    assert put_live(live, *records) == (ChangeOutcome.DEAD,) * 3
    assert catalog.videos() == []


def test_prunes_the_oldest_by_age_and_by_size(live: LiveRows, catalog: Catalog) -> None:
    for video_id, appended in (("a", 0.0), ("b", 4.0)):
        put_live(live, *(live_segment(n, video_id=video_id, appended=STARTED + appended + 8 * n) for n in range(6)))
    put_live(
        live, live_segment(0, video_id="kept", collection="archive"), live_segment(0, video_id="film", uri="/f.mp4")
    )
    by_age = Retention(limits={"default": Limit(age_seconds=100.0)})
    assert live.prune(by_age, STARTED + 100, 10) == []
    generation = catalog.generation()
    removed = live.prune(by_age, STARTED + 113, 2)
    assert [one.segment for one in removed] == [
        SegmentKey("default", "a", "a/0/0"), SegmentKey("default", "b", "b/0/0"),
    ]  # fmt: skip
    assert {one.reason for one in removed} == {"age over 100 s"}
    assert min(one.size_bytes for one in removed) > 0
    assert catalog.generation() == generation + 1
    assert [one.segment for one in live.prune(by_age, STARTED + 113, 2)] == [
        SegmentKey("default", "a", "a/0/1"),
        SegmentKey("default", "b", "b/0/1"),
    ]
    assert live.prune(by_age, STARTED + 113, 2) == []
    check_whole(catalog)
    assert catalog.frames(row_of(catalog, "a")).pts_seconds[0] == 24.0
    total = stream_bytes(catalog)
    by_size = Retention(limits={"*": Limit(size_bytes=total / 2), "archive": Limit(size_bytes=1e9)})
    while live.prune(by_size, STARTED, 1):
        check_whole(catalog)
    assert total / 4 < stream_bytes(catalog) <= total / 2
    assert {video.video_id for video in catalog.videos()} == {"a", "b", "film", "kept"}
    live.prune(by_age, NOW, 100)
    assert {video.video_id for video in catalog.videos()} == {"film", "kept"}


def stream_bytes(catalog: Catalog) -> int:
    sql = "SELECT sum(size_bytes) FROM videos WHERE collection = 'default' AND video_id != 'film'"
    return int(catalog.select(sql)[0][0])


def row_of(catalog: Catalog, video_id: str) -> int:
    (video,) = catalog.videos(video_ids=[video_id])
    return video.row


# ---- any order, any number of times


def stream_of_changes(choice: random.Random) -> list[Change]:
    """Make what two streams may have sent: revisions, epochs, gaps, an end, deletions."""
    changes: list[Change] = []
    for video_id in ("cam", "door"):
        start = 0.0
        for epoch in range(2):
            count = choice.randrange(2, 7)
            for index in range(count):
                known = {"video_id": video_id, "epoch": epoch, "epoch_start": start}
                gaps = [Gap(at_seconds=start, first_sequence=1, chunk_count=1, reason="MISSING")]
                for seconds in sorted(choice.sample(range(3, 16), 2)):
                    changes.append(
                        live_segment(index, is_final=False, known_seconds=STRIDE * index + seconds,
                                     recorded_from=choice.choice([None, STARTED]), **known)  # type: ignore[arg-type]
                    )  # fmt: skip
                changes.append(
                    live_segment(index, gaps=gaps if choice.random() < 0.2 else (),
                                 is_last=epoch == 1 and index == count - 1, **known)  # type: ignore[arg-type]
                )  # fmt: skip
            start += STRIDE * count + STRIDE
        for _ in range(choice.randrange(3)):
            at = STARTED + choice.uniform(0, start)
            changes.append(DeletionRecord(collection="default", video_id=video_id, append_time=at))
    return changes


@pytest.mark.slow
@pytest.mark.parametrize("seed", first_quick(range(12), 3))
def test_any_order_of_any_copies_ends_in_the_same_rows(tmp_path: Path, seed: int) -> None:
    choice = random.Random(seed)
    changes = stream_of_changes(choice)
    found = []
    for n in range(3):
        with Catalog.open_writer(tmp_path / str(n)) as catalog:
            live = LiveRows(catalog, FINGERPRINT, clock=lambda: NOW)
            order = changes + choice.choices(changes, k=len(changes) // 2)
            if n:
                choice.shuffle(order)
            while order:
                count = choice.randrange(1, 8)
                live.apply(order[:count], {("segments", 0): 1})
                del order[:count]
                if choice.random() < 0.2:
                    check_whole(catalog)
            check_whole(catalog)
            found.append(tables(catalog))
    assert found[0] == found[1] == found[2]
    assert found[0]["segments"] or any(isinstance(change, DeletionRecord) for change in changes)


def test_what_was_read_before_may_be_read_again_from_any_point(live: LiveRows, catalog: Catalog) -> None:
    changes = stream_of_changes(random.Random(99))
    put_live(live, *changes)
    expected = tables(catalog)
    for start in range(0, len(changes), 3):
        put_live(live, *changes[start:])
        assert tables(catalog) == expected


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (live_edit.LiveEdit, "_insert"),
        (live_edit.LiveEdit, "_remove"),
        (live_edit, "write_video"),
        (edited_video, "listed_uri"),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing_half(
    live: LiveRows, catalog: Catalog, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.apply([live_segment(n, is_final=False) for n in range(3)], {("segments", 0): 3})
    before, generation = tables(catalog), catalog.generation()
    changes: Sequence[Change] = [live_segment(1), live_segment(3), live_segment(0, video_id="new")]
    honest, calls = getattr(owner, name), []

    def fail_at_last(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == (1 if name == "_remove" else 2):
            raise RuntimeError("killed")
        return honest(*arguments)

    monkeypatch.setattr(owner, name, fail_at_last)
    with pytest.raises(RuntimeError, match="killed"):
        live.apply(changes, {("segments", 0): 6})
    assert tables(catalog) == before
    assert (catalog.generation(), live.offsets("segments")) == (generation, {0: 3})
    monkeypatch.undo()
    assert set(put_live(live, *changes)) == {ChangeOutcome.APPLIED}
    check_whole(catalog)


# ---- beside everything else


def test_live_videos_stand_beside_files_and_writers(live: LiveRows, catalog: Catalog, reader: Catalog) -> None:
    row = catalog.begin(new_video("film"))
    catalog.add_frames(row, frames(5), [b""] * 5)
    put_live(live, live_segment(0))
    with reader.snapshot():
        assert [video.video_id for video in reader.videos()] == ["cam"]
        put_live(live, live_segment(1))
        assert only_video(reader).segment_count == 1
    catalog.finish(row, media=MEDIA, duration_seconds=5.0, warnings=())
    assert {video.video_id: video.is_live for video in reader.videos()} == {"cam": True, "film": False}
    assert not reader.video("film").watermark_seconds
    assert reader.video("film").is_final_until(1e9)


def test_a_reindexing_keeps_live_videos_of_the_same_encoders_only(
    live: LiveRows, catalog: Catalog, tmp_path: Path
) -> None:
    live.apply([live_segment(0)], {("segments", 0): 1})
    put(catalog, "film", "hello there")
    with Catalog.open_writer(tmp_path / "fresh") as fresh:
        fresh.set_space(SPACE)
        put(fresh, "film", "hello again")
    catalog.set_space(SPACE)
    replace_videos(catalog, tmp_path / "fresh")  # SPACE's fingerprint is not FINGERPRINT
    assert [video.video_id for video in catalog.videos()] == ["film"]
    assert live.offsets("segments") == {}
    same = LiveRows(live.catalog, SPACE.fingerprint, clock=lambda: NOW)
    same.apply([live_segment(0, fingerprint=SPACE.fingerprint)], {("segments", 0): 1})
    replace_videos(catalog, tmp_path / "fresh")
    assert {video.video_id for video in catalog.videos()} == {"cam", "film"}
    assert same.offsets("segments") == {0: 1}
    assert len(catalog.match_words(["second"], limit=5)) == 2
    check_whole(catalog)


def test_a_month_of_revisions_leaves_no_trace_of_the_old_ones(live: LiveRows, catalog: Catalog) -> None:
    for index in range(3):
        for seconds in range(1, LENGTH + 1):
            put_live(live, live_segment(index, known_seconds=STRIDE * index + seconds, is_final=False))
        put_live(live, live_segment(index))
    assert only_video(catalog).segment_count == 3
    check_whole(catalog)
