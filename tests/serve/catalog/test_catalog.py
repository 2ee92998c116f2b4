"""The catalog: what is written is read, all of it or none."""

import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders.values import FrameEmbeddings
from serve.catalog import schema
from serve.catalog.catalog import Catalog
from serve.catalog.reader import RowState
from serve.catalog.spelling import TOKENIZER
from serve.catalog.swap import replace_videos
from serve.errors import DataDirectoryMissing, VideoAmbiguous, VideoNotFound
from support import SUPPORT
from support.sample_catalog import (
    FINGERPRINT,
    MEDIA,
    SPACE,
    WIDTH,
    check,
    frames,
    new_video,
    put,
    put_vectors,
    put_version,
    segment,
    unit,
    utterance,
)

CHILD = SUPPORT / "catalog_child.py"


# ---- what is written is read


def test_returns_what_was_added(catalog: Catalog, reader: Catalog) -> None:
    row = catalog.begin(new_video("abc", uri="file:///b%20c.mp4"))
    first, second = frames(64, width=16), frames(3, first=64, width=16)
    for some in (first, second):
        catalog.add_frames(row, some, [f"{at}".encode() for at in some.pts_seconds])
    said = [utterance("It's Paris", 1.0), utterance("of course", 6.0)]
    vectors = unit(np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH) + 1)
    catalog.add_utterances(row, said[:1], vectors[:1])
    catalog.add_utterances(row, said[1:], vectors[1:])
    segments = [segment("abc", 0, vectors[0]), segment("abc", 1, None)]
    catalog.add_segments(row, segments)
    begin = time.time()
    catalog.finish(row, media=MEDIA, duration_seconds=66.5, warnings=["torn at the end"])

    (video,) = reader.videos()
    assert (video.row, video.video_id, video.collection, video.uri) == (row, "abc", "default", "file:///b%20c.mp4")
    assert (video.media, video.duration_seconds, video.warnings) == (MEDIA, 66.5, ("torn at the end",))
    assert (video.frame_count, video.utterance_count, video.segment_count) == (67, 2, 2)
    assert begin - 1 < video.indexed_time < time.time() + 1
    stored = reader.frames(row)
    assert np.array_equal(stored.pts_seconds, np.arange(67.0))
    assert stored.epochs.dtype == np.int32
    assert stored.vectors.dtype == np.float32
    assert np.allclose(stored.vectors, np.concatenate([first.vectors, second.vectors]), atol=5e-4)  # float16
    assert reader.utterances(row) == said
    assert np.array_equal(reader.utterance_vectors(row), vectors)
    got = reader.segments(row)
    assert [one.span for one in got] == [one.span for one in segments]
    assert np.array_equal(got[0].vector, vectors[0])  # type: ignore[arg-type]
    assert got[1].vector is None
    assert reader.changed_rows(FINGERPRINT) == {
        row: RowState(indexed_time=video.indexed_time, is_live=False, version=0)
    }
    assert reader.changed_rows("other") == {}


def test_keeps_what_the_caller_said_of_a_video(catalog: Catalog, reader: Catalog, tmp_path: Path) -> None:
    put(catalog, "plain")
    said = replace(new_video("told"), metadata={"camera": "7", "título": "…"}, recorded_time=1.75e9)
    catalog.finish(catalog.begin(said), media=MEDIA, duration_seconds=5.0, warnings=())
    assert (reader.video("plain").metadata, reader.video("plain").recorded_time) == ({}, None)
    assert (reader.video("told").metadata, reader.video("told").recorded_time) == (said.metadata, 1.75e9)
    with Catalog.open_writer(tmp_path / "moved") as moved:
        for video_id in ("plain", "told"):
            put(moved, video_id)
        replace_videos(moved, tmp_path)
        assert moved.video("told").metadata == said.metadata
        assert moved.video("told").recorded_time == 1.75e9


def test_remembers_the_encoder_space(catalog: Catalog, reader: Catalog) -> None:
    assert reader.space() is None
    catalog.set_space(SPACE)
    assert reader.space() == SPACE


def test_keeps_times_and_thumbnails_without_a_visual_encoder(catalog: Catalog) -> None:
    row = catalog.begin(new_video("blind"))
    catalog.add_frames(row, frames(5, width=0), [b"jpeg"] * 5)
    catalog.add_utterances(row, [utterance("hello")], np.empty((1, 0), np.float32))
    catalog.finish(row, media=MEDIA, duration_seconds=5.0, warnings=())
    assert catalog.frames(row).vectors.shape == (5, 0)
    assert catalog.thumbnail(row, 3.2) == (3.0, b"jpeg")
    assert catalog.utterance_vectors(row).shape == (1, 0)
    assert len(catalog.row_ids("utterances", row)[0]) == 0


def test_a_video_without_rows_reads_as_empty(catalog: Catalog) -> None:
    row = put(catalog, "silent")
    assert len(catalog.frames(row).pts_seconds) == 0
    assert (catalog.utterances(row), catalog.segments(row), catalog.thumbnail(row, 1.0)) == ([], [], None)
    assert catalog.utterance_vectors(row).shape == (0, 0)


@pytest.mark.parametrize(("asked", "nearest"), [(-5.0, 0.0), (0.4, 0.0), (0.6, 1.0), (3.0, 3.0), (99.0, 4.0)])
def test_gives_the_thumbnail_nearest_to_a_time(catalog: Catalog, asked: float, nearest: float) -> None:
    row = catalog.begin(new_video("abc"))
    catalog.add_frames(row, frames(5), [b"%d" % n for n in range(5)])
    catalog.finish(row, media=MEDIA, duration_seconds=5.0, warnings=())
    assert catalog.thumbnail(row, asked) == (nearest, b"%d" % nearest)


@pytest.mark.parametrize(("asked", "shown"), [(0.0, 20.0), (64.0, 20.0), (109.4, 20.0), (109.6, 110.0), (500.0, 110.0)])
def test_gives_the_thumbnail_of_the_picture_that_stands_at_a_time(catalog: Catalog, asked: float, shown: float) -> None:
    row = catalog.begin(new_video("slides"))
    catalog.add_frames(row, replace(frames(2), pts_seconds=np.array([20.0, 110.0])), [b"20", b"110"])
    catalog.finish(row, media=MEDIA, duration_seconds=500.0, warnings=())
    assert catalog.thumbnail(row, asked) == (shown, b"%d" % shown)


def test_keeps_file_names_that_are_not_utf8_and_numbers_that_are_none(catalog: Catalog) -> None:
    row = catalog.begin(new_video("odd", uri="file:///caf\udce9.mp4"))
    one = utterance("x")
    odd = type(one)(
        epoch=0, start_seconds=0.0, end_seconds=1.0, text="", words=(), language="",
        avg_logprob=float("nan"), no_speech_prob=float("nan"),
    )  # fmt: skip
    catalog.add_utterances(row, [odd], np.zeros((1, WIDTH), np.float32))
    catalog.finish(row, media=MEDIA, duration_seconds=5.0, warnings=())
    assert catalog.videos()[0].uri == "file:///caf\udce9.mp4"
    assert np.isnan(catalog.utterances(row)[0].avg_logprob)


def test_orders_videos_by_uri_and_filters_them(catalog: Catalog) -> None:
    put(catalog, "id-one", uri="file:///b")
    put(catalog, "id-two", uri="file:///a")
    put(catalog, "id-one", uri="file:///c", collection="zoo")
    assert [video.uri for video in catalog.videos()] == ["file:///a", "file:///b", "file:///c"]
    assert [video.uri for video in catalog.videos(collection="zoo")] == ["file:///c"]
    assert [video.uri for video in catalog.videos(video_ids=["id-one", "nobody"])] == ["file:///b", "file:///c"]


def test_finds_a_video_by_an_unambiguous_prefix(catalog: Catalog) -> None:
    put(catalog, "abcdef1")
    put(catalog, "abcdxy2")
    put(catalog, "abcd_%3")
    put(catalog, "abcdef")  # a whole id wins over being a prefix
    assert catalog.video("abcdx").video_id == "abcdxy2"
    assert catalog.video("abcdef").video_id == "abcdef"
    assert catalog.video("abcd_").video_id == "abcd_%3"
    with pytest.raises(VideoAmbiguous):
        catalog.video("abcd")
    for unknown in ("abc", "", "nope", "abcd%", "abcde_"):
        with pytest.raises(VideoNotFound):
            catalog.video(unknown)


def test_an_id_in_two_collections_needs_the_collection(catalog: Catalog) -> None:
    put(catalog, "same", collection="a")
    put(catalog, "same", collection="b")
    for ask in (catalog.video, catalog.delete):
        with pytest.raises(VideoAmbiguous, match="a, b"):
            ask("same")
    catalog.delete("same", "a")
    assert catalog.video("same").collection == "b"


@pytest.mark.slow
def test_reads_an_hour_of_frames_in_milliseconds(catalog: Catalog, reader: Catalog) -> None:
    row = catalog.begin(new_video("hour"))
    for first in range(0, 3600, 64):
        some = frames(min(64, 3600 - first), first=first, width=512)
        catalog.add_frames(row, some, [bytes(2000)] * len(some.pts_seconds))
    catalog.finish(row, media=MEDIA, duration_seconds=3600.0, warnings=())
    took = []
    for _ in range(5):
        start = time.thread_time()
        stored: FrameEmbeddings = reader.frames(row)
        took.append(time.thread_time() - start)
    assert stored.vectors.shape == (3600, 512)
    text, start = json.dumps(stored.vectors.tolist()), time.thread_time()
    json.loads(text)
    assert min(took) < time.thread_time() - start  # a few ms; parsing them, row by row, would take far longer


# ---- visible at once, or not at all


def test_a_video_is_invisible_until_it_is_finished(catalog: Catalog, reader: Catalog) -> None:
    row = catalog.begin(new_video("abc"))
    catalog.add_frames(row, frames(5), [b""] * 5)
    catalog.add_utterances(row, [utterance("hello there")], np.ones((1, WIDTH), np.float32))
    catalog.add_segments(row, [segment("abc", 0, unit(np.ones(WIDTH, np.float32)))])
    assert reader.videos() == []
    assert reader.generation() == 0
    assert reader.match_words(["hello"], limit=5) == []
    assert reader.document_frequencies(["hello"]) == ({"hello": 0}, 0)
    assert reader.changed_rows(FINGERPRINT) == {}
    for read in (reader.frames, reader.utterances, reader.segments, lambda row: reader.row_ids("segments", row)):
        with pytest.raises(VideoNotFound):
            read(row)
    catalog.finish(row, media=MEDIA, duration_seconds=5.0, warnings=())
    assert [video.row for video in reader.videos()] == [row]
    assert reader.generation() == 1
    assert len(reader.match_words(["hello"], limit=5)) == 1


def test_a_new_version_takes_the_place_of_the_old_at_once(catalog: Catalog, reader: Catalog) -> None:
    put_version(catalog, "abc", 1)
    put_version(catalog, "xyz", 2)
    with reader.snapshot():
        assert check(reader) == {"abc": 1, "xyz": 2}
        put_version(catalog, "abc", 3)
        assert check(reader) == {"abc": 1, "xyz": 2}  # before
    assert check(reader) == {"abc": 3, "xyz": 2}  # after
    assert reader.match_words(["version1"], limit=5) == []


def test_deleting_takes_everything_away(catalog: Catalog, reader: Catalog, tmp_path: Path) -> None:
    put_version(catalog, "abc", 1)
    put_version(catalog, "xyz", 2)
    row, generation = reader.video("abc").row, reader.generation()
    catalog.delete("abc")
    assert reader.generation() > generation
    assert check(reader) == {"xyz": 2}
    with pytest.raises(VideoNotFound):
        reader.frames(row)
    for gone in ("abc", "xy", "xyz0"):
        with pytest.raises(VideoNotFound):
            catalog.delete(gone)
    for table in ("frame_blocks", "thumbnails", "utterances", "segments"):
        with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
            assert connection.execute(f"SELECT count(*) FROM {table} WHERE video_row = ?", (row,)).fetchone() == (0,)
        connection.close()


def test_delete_takes_no_abbreviation(catalog: Catalog) -> None:
    put(catalog, "camera10")
    with pytest.raises(VideoNotFound):
        catalog.delete("camera1")


def test_rows_are_never_used_twice(catalog: Catalog) -> None:
    first = put_vectors(catalog, "abc", np.eye(WIDTH, dtype=np.float32))
    ids = catalog.row_ids("segments", first)[0]
    catalog.delete("abc")
    second = put_vectors(catalog, "abc", np.eye(WIDTH, dtype=np.float32))
    assert second > first
    assert catalog.row_ids("segments", second)[0].min() > ids.max()
    with pytest.raises(VideoNotFound):
        catalog.locate("segments", [int(ids[0])])


def test_locates_ids_in_the_order_asked(catalog: Catalog) -> None:
    rows = [put_vectors(catalog, name, np.eye(WIDTH, dtype=np.float32)) for name in ("abc", "xyz")]
    ids = [int(n) for row in rows for n in catalog.row_ids("segments", row)[0]]
    assert catalog.locate("segments", [ids[9], ids[0], ids[9]]) == [(rows[1], 1), (rows[0], 0), (rows[1], 1)]
    assert catalog.locate("utterances", []) == []


def test_abandons_a_video_that_cannot_be_finished(catalog: Catalog) -> None:
    put_version(catalog, "abc", 1)
    row = catalog.begin(new_video("abc"))
    catalog.add_frames(row, frames(5), [b""] * 5)
    catalog.abandon(row)
    assert check(catalog) == {"abc": 1}
    with pytest.raises(ValueError, match="not begun"):
        catalog.finish(row, media=MEDIA, duration_seconds=1.0, warnings=())


def test_refuses_rows_that_do_not_fit_together(catalog: Catalog) -> None:
    row = catalog.begin(new_video("abc"))
    catalog.add_frames(row, frames(5), [b""] * 5)
    with pytest.raises(ValueError, match="thumbnails"):
        catalog.add_frames(row, frames(5, first=5), [b""])
    with pytest.raises(ValueError, match="8 wide"):
        catalog.add_frames(row, frames(5, first=5, width=4), [b""] * 5)
    with pytest.raises(ValueError, match=r"\(1, D\)"):
        catalog.add_utterances(row, [utterance("x")], np.ones((2, WIDTH), np.float32))
    catalog.add_frames(row, frames(0, first=5), [])
    catalog.finish(row, media=MEDIA, duration_seconds=1.0, warnings=())
    assert catalog.videos()[0].frame_count == 5


def test_a_reader_cannot_write_and_a_snapshot_is_for_reading(catalog: Catalog, reader: Catalog) -> None:
    with pytest.raises(ValueError, match="reading only"):
        reader.begin(new_video("abc"))
    with catalog.snapshot(), pytest.raises(ValueError, match="snapshot"):
        catalog.begin(new_video("abc"))


def test_an_editor_deletes_beside_the_writer_and_does_nothing_that_only_a_writer_may(
    catalog: Catalog, reader: Catalog, tmp_path: Path
) -> None:
    put_version(catalog, "abc", 1)
    put_version(catalog, "xyz", 2)
    row = catalog.begin(new_video("new"))
    with Catalog.open_editor(tmp_path) as editor:
        generation = reader.generation()
        editor.delete("abc")
        assert reader.generation() > generation
        assert check(reader) == check(catalog) == {"xyz": 2}
        for job in (lambda: editor.begin(new_video("other")), lambda: editor.set_space(SPACE)):
            with pytest.raises(ValueError, match="small changes only"):
                job()
    with pytest.raises(ValueError, match="closed"):
        editor.delete("xyz")
    catalog.finish(row, media=MEDIA, duration_seconds=1.0, warnings=())  # the editor did not take it away
    assert len(reader.videos()) == 2


def test_an_editor_needs_a_catalog(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DataDirectoryMissing):
            Catalog.open_editor(directory)
    assert not (tmp_path / "catalog.sqlite").exists()


def test_an_error_in_a_snapshot_stays_what_it_is(catalog: Catalog) -> None:
    with pytest.raises(FileNotFoundError), catalog.snapshot():
        raise FileNotFoundError("of the caller")


def test_takes_the_place_of_another_catalog(tmp_path: Path) -> None:
    with Catalog.open_writer(tmp_path / "new") as fresh:
        fresh.set_space(SPACE)
        put_version(fresh, "abc", 4)
        put_version(fresh, "gone", 5)  # deleted from the old one meanwhile: it does not come back
    with Catalog.open_writer(tmp_path / "old") as catalog, Catalog.open_reader(tmp_path / "old") as reader:
        put_version(catalog, "abc", 1)
        put_version(catalog, "old", 2)
        old_rows, generation = set(catalog.changed_rows(FINGERPRINT)), catalog.generation()
        with reader.snapshot():
            assert check(reader) == {"abc": 1, "old": 2}
            replace_videos(catalog, tmp_path / "new")
            assert check(reader) == {"abc": 1, "old": 2}
        assert check(reader) == {"abc": 4}
        assert reader.space() == SPACE
        assert reader.generation() > generation
        assert not old_rows & set(reader.changed_rows(FINGERPRINT))
        put_version(catalog, "abc", 6)
        assert check(reader) == {"abc": 6}
        assert catalog.select("SELECT count(*) FROM videos") == [(1,)]


# ---- words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (["paris"], {0}),
        (["PARIS!"], {0}),
        (["hike"], {1}),  # porter: hiking
        (["20%"], {2}),
        (["twenty per cent"], {2}),
        (["cafe"], {3}),
        (["東京"], {4}),
        (["京東"], set()),
        (["its"], {0}),
        (["in paris"], {0}),
        (["paris in"], set()),
        (["paris", "café"], {0, 3}),
        ([], set()),
        (["", "  ", "!?…", '"', '""'], set()),
        (["🙂"], set()),
        (['"; DROP TABLE videos; --'], set()),
        (["NEAR("], {5}),  # just a word
        (["near(paris hiking, 2)"], set()),
        (["*"], set()),
        (["par*"], set()),
        (["search_text:paris"], set()),
        (["^paris"], {0}),
        (["NOT paris", "OR", "paris AND"], set()),
        (['"in paris', 'paris"'], {0}),
        (["x" * 100_000], set()),
        (["\x00paris\x00"], {0}),
    ],
)
def test_user_words_are_words_and_never_syntax(catalog: Catalog, terms: list[str], expected: set[int]) -> None:
    put(catalog, "said", "It's in Paris", "we went hiking", "20 percent more", "a Café", "東京タワー", "so near")
    assert {match.position for match in catalog.match_words(terms, limit=10)} == expected


def test_better_matches_come_first_within_the_limit_and_the_videos_asked(catalog: Catalog) -> None:
    first = put(catalog, "first", "a boat", "a boat, a boat and another boat", "nothing", "nothing", "nothing")
    second = put(catalog, "second", "the boat and very many other words that make it a longer utterance", "no", "no")
    found = catalog.match_words(["boat"], limit=10)
    assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)
    assert (found[0].row, found[0].position) == (first, 1)
    assert len(found) == 3
    assert catalog.match_words(["boat"], limit=1) == found[:1]
    assert {match.row for match in catalog.match_words(["boat"], limit=10, rows=[second])} == {second}
    assert catalog.match_words(["boat"], limit=10, rows=[]) == []


def test_counts_the_utterances_that_hold_a_term(catalog: Catalog) -> None:
    put(catalog, "abc", "new york", "york is new", "new")
    assert catalog.document_frequencies(["new york"]) == ({"new york": 1}, 3)
    assert catalog.document_frequencies(["York"]) == ({"York": 2}, 3)
    assert catalog.document_frequencies(['"']) == ({'"': 0}, 3)


def test_the_search_table_has_the_tokenizer_that_stems_terms() -> None:
    assert f"tokenize = '{TOKENIZER}'" in schema.TABLES
