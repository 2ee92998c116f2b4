"""Videos whose every row says which version of the video it belongs to, so that a mixture shows."""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance, Word
from ingest.values import MediaInfo
from serve.catalog.catalog import Catalog, NewVideo
from serve.catalog.schema import APPLICATION_ID
from serve.values import EncoderSpace, Video
from temporal.values import Segment, TimeSpan

WIDTH = 8
FINGERPRINT = "0123456789abcdef"
MEDIA = MediaInfo(
    container="mov,mp4,m4a,3gp,3g2,mj2", duration_seconds=12.5, video_codec="h264", audio_codec=None,
    width=640, height=360, rotation_degrees=0, frame_rate_fps=25.0,
)  # fmt: skip
SPACE = EncoderSpace(
    visual="mini", visual_fingerprint="1", speech="tiny.en", speech_fingerprint="2", sentence="minilm",
    sentence_fingerprint="3", window="16s/8s mean",
)  # fmt: skip
PLACES_VERSION = 8  # the first schema version with the table of places
SECRETS_VERSION = 9  # of the schema, from which on the catalog holds no secrets of URIs
TURNS_VERSION = 10  # the first in which jobs know their callers
TOPICS_VERSION = 11  # the first in which offsets know their topics
TEXT_VERSION = 12  # the first with lines of text
SUBTITLES_VERSION = 13  # the first with sources of words
SPEAKERS_VERSION = 14  # the first that knows who speaks
REVIEWS_VERSION = 15  # the first with reviews of events
STEMS_VERSION = 16  # the first that stems by language


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def new_video(video_id: str, *, collection: str = "default", uri: str = "", fingerprint: str = FINGERPRINT) -> NewVideo:
    return NewVideo(
        video_id=video_id, collection=collection, uri=uri or f"file:///{video_id}.mp4", content_sha256="00" * 32,
        fingerprint=fingerprint,
    )  # fmt: skip


def frames(count: int, *, first: int = 0, width: int = WIDTH, seed: int = 0) -> FrameEmbeddings:
    rng = np.random.default_rng((seed, first))
    return FrameEmbeddings(
        epochs=np.zeros(count, np.int32),
        pts_seconds=np.arange(first, first + count, dtype=np.float64),
        vectors=unit(rng.standard_normal((count, width)).astype(np.float32)) if width else np.empty((count, 0)),  # type: ignore[arg-type]
    )


def utterance(text: str, start_seconds: float = 0.0) -> Utterance:
    words = tuple(
        Word(text=word, start_seconds=start_seconds + n, end_seconds=start_seconds + n + 0.5, probability=0.9)
        for n, word in enumerate(text.split())
    )
    return Utterance(
        epoch=0, start_seconds=start_seconds, end_seconds=start_seconds + 5, text=text, words=words, language="en",
        avg_logprob=-0.25, no_speech_prob=0.125,
    )  # fmt: skip


def segment(video_id: str, index: int, vector: NDArray[np.float32] | None) -> Segment:
    span = TimeSpan(start_seconds=8.0 * index, end_seconds=8.0 * index + 16)
    return Segment(segment_id=f"{video_id}/0/{index}", epoch=0, index=index, span=span, vector=vector)


def put(catalog: Catalog, video_id: str, *said: str, collection: str = "default", uri: str = "") -> int:
    """Index a video in which something is said."""
    row = catalog.begin(new_video(video_id, collection=collection, uri=uri))
    said_at = [utterance(text, 5.0 * n) for n, text in enumerate(said)]
    catalog.add_utterances(row, said_at, np.eye(max(len(said), 1), WIDTH, dtype=np.float32)[: len(said)])
    catalog.finish(row, media=MEDIA, duration_seconds=60.0, warnings=())
    return row


def put_vectors(catalog: Catalog, video_id: str, vectors: NDArray[np.float32], fingerprint: str = FINGERPRINT) -> int:
    """Index a video with these segments."""
    row = catalog.begin(new_video(video_id, fingerprint=fingerprint))
    catalog.add_segments(row, [segment(video_id, n, vector) for n, vector in enumerate(vectors)])
    catalog.finish(row, media=MEDIA, duration_seconds=60.0, warnings=())
    return row


def write_outdated(directory: Path, version: int, videos: Mapping[str, Path]) -> None:
    """Write what matters of a catalog that an older program made: its version, and videos with some columns.

    Args:
        videos: The file of each video by its id; the file's SHA-256 is the video's.
    """
    directory.mkdir(exist_ok=True)
    with closing(sqlite3.connect(directory / "catalog.sqlite")) as connection, connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        connection.execute("INSERT INTO meta VALUES ('schema_version', ?), ('identity', 'outdated')", (str(version),))
        connection.execute(
            "CREATE TABLE videos (row INTEGER PRIMARY KEY AUTOINCREMENT, video_id TEXT NOT NULL, collection TEXT NOT"
            " NULL, uri BLOB NOT NULL, content_sha256 TEXT NOT NULL, fingerprint TEXT NOT NULL, state TEXT NOT NULL,"
            " media TEXT NOT NULL DEFAULT '{}', duration_seconds REAL NOT NULL DEFAULT 0, frame_count INTEGER NOT NULL"
            " DEFAULT 0, indexed_time REAL NOT NULL DEFAULT 0)"
        )
        connection.execute("CREATE TABLE segments (id INTEGER PRIMARY KEY, video_row INTEGER REFERENCES videos)")
        connection.execute("CREATE VIRTUAL TABLE utterance_search USING fts5 (search_text)")
        for video_id, path in videos.items():
            connection.execute(
                "INSERT INTO videos (video_id, collection, uri, content_sha256, fingerprint, state, media,"
                " duration_seconds, frame_count) VALUES (?, 'films', ?, ?, 'old', 'READY', ?, 12.5, 12)",
                (
                    video_id,
                    str(path).encode(),
                    hashlib.sha256(path.read_bytes()).hexdigest(),
                    json.dumps(asdict(MEDIA)),
                ),
            )
        connection.execute("INSERT INTO segments (video_row) SELECT row FROM videos")
        if version >= 2:
            connection.execute("ALTER TABLE videos ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}'")
            connection.execute("ALTER TABLE videos ADD COLUMN recorded_time REAL")
            connection.execute('UPDATE videos SET metadata = \'{"camera": "7"}\', recorded_time = 5.0')
        if version >= 3:
            connection.execute("ALTER TABLE videos ADD COLUMN live INTEGER NOT NULL DEFAULT 0")
            connection.execute("CREATE TABLE deletions (collection TEXT, video_id TEXT, append_time REAL)")
            connection.execute("INSERT INTO deletions VALUES ('films', 'gone', 9.0)")
            connection.execute(
                "INSERT INTO videos (video_id, collection, uri, content_sha256, fingerprint, state, live)"
                " VALUES ('cam', 'films', x'', '', 'old', 'READY', 1)"
            )


def turn_back(connection: sqlite3.Connection, version: int) -> None:
    """Make the tables of a catalog those of an older schema version, from FIRST_VERSION on."""
    if version < REVIEWS_VERSION:
        connection.execute("DROP TABLE event_reviews")
        connection.execute("DROP INDEX videos_live")
    if version < SUBTITLES_VERSION:
        connection.execute("ALTER TABLE utterances DROP COLUMN source")
        connection.execute("ALTER TABLE videos DROP COLUMN subtitles")
        connection.execute("DROP TABLE imported_transcripts")
    if version < STEMS_VERSION:
        connection.execute("DROP INDEX utterances_language")
    if version < SPEAKERS_VERSION:
        connection.execute("DROP TABLE speaker_names")
        connection.execute("DROP INDEX utterances_speaker")
        connection.execute("ALTER TABLE utterances DROP COLUMN speaker")
        connection.execute("ALTER TABLE utterances DROP COLUMN spoken_language")
    if version < TEXT_VERSION:
        connection.execute("DROP TABLE text_line_search")
        connection.execute("DROP TABLE text_lines")
        connection.execute("ALTER TABLE videos DROP COLUMN text_line_count")
    if version < TOPICS_VERSION:
        connection.execute("DROP TABLE consumed_topics")
    if version < PLACES_VERSION:
        connection.execute("DROP TABLE places")
        connection.execute("DROP INDEX videos_listed")
        connection.execute("DROP INDEX videos_content")
    if version < SECRETS_VERSION:
        connection.execute("ALTER TABLE jobs ADD COLUMN uri BLOB NOT NULL DEFAULT x''")
        connection.execute("UPDATE jobs SET uri = display_uri")
        connection.execute("ALTER TABLE jobs DROP COLUMN uri_name")
    if version < TURNS_VERSION:
        connection.execute("DROP INDEX jobs_turns")
        connection.execute("ALTER TABLE jobs DROP COLUMN caller")
        connection.execute("ALTER TABLE jobs DROP COLUMN size_bytes")
    connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(version),))


def put_version(catalog: Catalog, video_id: str, version: int, job_id: int | None = None) -> None:
    """Index a version of a video, in several appends of each kind."""
    row = catalog.begin(new_video(video_id, uri=f"file:///{video_id}?{version}"))
    vector = unit(np.full(WIDTH, 1, np.float32))
    for first in (0, 20):
        some = frames(20 + version % 7, first=first + 30 * version)
        catalog.add_frames(row, some, [f"jpeg of {version}".encode()] * len(some.pts_seconds))
    for n in range(2 + version % 3):
        catalog.add_utterances(row, [utterance(f"spoken version{version} number {n}", 5.0 * n)], vector[None])
        catalog.add_segments(row, [segment(f"{video_id}-{version}", n, vector)])
    catalog.finish(row, media=MEDIA, duration_seconds=float(version), warnings=[f"version {version}"], job_id=job_id)


def version_of(catalog: Catalog, video: Video) -> int:
    """Return which version of put_version() a video is, having checked that all of it is."""
    version = int(video.uri.rpartition("?")[2])
    with catalog.snapshot():
        stored, said = catalog.frames(video.row), catalog.utterances(video.row)
        segments, found = catalog.segments(video.row), catalog.match_words([f"version{version}"], limit=1000)
        thumbnail = catalog.thumbnail(video.row, 0.0)
    assert video.duration_seconds == version
    assert video.warnings == (f"version {version}",)
    assert video.frame_count == len(stored.pts_seconds) == 2 * (20 + version % 7)
    assert stored.pts_seconds[0] == 30 * version
    assert thumbnail == (30 * version, f"jpeg of {version}".encode())
    assert [one.text for one in said] == [f"spoken version{version} number {n}" for n in range(2 + version % 3)]
    assert video.utterance_count == video.segment_count == len(said) == len(segments)
    assert all(one.segment_id.startswith(f"{video.video_id}-{version}/") for one in segments)
    assert sorted(one.position for one in found if one.row == video.row) == list(range(len(said)))
    return version


def check(catalog: Catalog) -> dict[str, int]:
    """Return the version of each visible video, having checked the whole catalog."""
    versions = {video.video_id: version_of(catalog, video) for video in catalog.videos()}
    total = sum(2 + version % 3 for version in versions.values())
    assert catalog.document_frequencies(["spoken"]) == ({"spoken": total}, total)
    assert len(catalog.match_words(["spoken"], limit=1000)) == total
    return versions
