"""The catalog's tables, their version, and the steps that bring an older catalog forward.

Every table with rows of a video references `videos` with ON DELETE CASCADE. `utterance_search` holds the words of READY
videos only, so that scores and counts never depend on a video that is still being written. Catalog adds words in
finish() and deletes them with a READY row.

Keys are AUTOINCREMENT: SQLite never uses a key twice. So an index that still holds the key of a deleted row can only
miss, never point at another row.

The rows of a file never change once it is READY. The rows of a live video change several times a second: its frames,
thumbnails and utterances belong to the segment that introduces them, and are replaced with it. `live_blocks` says when
each block of segments last changed, so that readers with rows in memory read only changed blocks again
(serve.live.live_edit writes them, serve.search.video_rows reads them).
"""

import sqlite3
from pathlib import Path

from ingest.source.redaction import redact_uri, redact_uris
from ingest.source.source import display_uri
from serve.catalog.fetch_uris import store_uri
from serve.catalog.places import stored_place_of
from serve.catalog.rows import uri_bytes, uri_of
from serve.catalog.spelling import normalise, search_words

APPLICATION_ID = 0x4B494E4F  # "KINO": tells our file from any other SQLite file

# Times of day are seconds since 1970, UTC. Arrays are little-endian.
TABLES = """\
CREATE TABLE meta (
    key TEXT PRIMARY KEY,                -- generation, identity, schema_version, space
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE videos (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    video_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    uri BLOB NOT NULL,                   -- UTF-8; a file name that is no UTF-8 keeps its bytes
    content_sha256 TEXT NOT NULL,
    fingerprint TEXT NOT NULL,           -- of the encoder space its vectors were made in
    state TEXT NOT NULL CHECK (state IN ('PROCESSING', 'READY')),
    media TEXT NOT NULL DEFAULT '{}',    -- JSON of MediaInfo
    metadata TEXT NOT NULL DEFAULT '{}', -- JSON object of strings, from the caller
    recorded_time REAL,                  -- of its start; NULL: not known
    duration_seconds REAL NOT NULL DEFAULT 0,
    frame_count INTEGER NOT NULL DEFAULT 0,
    segment_count INTEGER NOT NULL DEFAULT 0,
    utterance_count INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0, -- of all segments of a live video; 0: a file
    warnings TEXT NOT NULL DEFAULT '[]', -- JSON list of strings
    indexed_time REAL NOT NULL DEFAULT 0,
    live INTEGER NOT NULL DEFAULT 0,     -- 1: fed by Kafka; 0: a file, which never changes
    ended INTEGER NOT NULL DEFAULT 1,    -- 0: a live video that goes on
    watermark_seconds REAL,              -- everything before it is final; NULL: everything is
    watermark_moved_time REAL,           -- when the watermark last moved
    anchors TEXT NOT NULL DEFAULT '[]',  -- JSON [[epoch, media seconds, time of day], ...]
    changed_generation INTEGER NOT NULL DEFAULT 0 -- in which this row last changed
);
CREATE UNIQUE INDEX videos_ready ON videos (collection, video_id) WHERE state = 'READY';
CREATE INDEX videos_changed ON videos (changed_generation) WHERE state = 'READY';
CREATE INDEX videos_space ON videos (fingerprint) WHERE state = 'READY';

CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
    position INTEGER NOT NULL,
    segment_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    segment_index INTEGER NOT NULL,
    start_seconds REAL NOT NULL,
    end_seconds REAL NOT NULL,
    vector BLOB,                         -- float32 (D,); NULL: a window without any picture
    -- The other columns are for segments of live videos; a file's have the defaults.
    revision INTEGER NOT NULL DEFAULT 0,
    final INTEGER NOT NULL DEFAULT 1,
    added_time REAL,                     -- of this row; NULL: a file's
    source_append_time REAL,             -- of the oldest record it was made of
    recorded_time REAL,                  -- of the start of its span; NULL: not known
    watermark_seconds REAL,              -- the highest watermark of its records
    last INTEGER NOT NULL DEFAULT 0,     -- 1: the video ends with this segment
    gaps TEXT NOT NULL DEFAULT '[]',     -- JSON list of strings: warnings, of its gaps or of a whole file
    size_bytes INTEGER NOT NULL DEFAULT 0 -- with its frames, thumbnails and utterances
);
CREATE UNIQUE INDEX segments_position ON segments (video_row, position);
CREATE INDEX segments_named ON segments (segment_id) WHERE added_time IS NOT NULL;
CREATE INDEX segments_added ON segments (video_row, position, added_time) WHERE added_time IS NOT NULL;
CREATE INDEX segments_recorded ON segments (video_row, position) WHERE recorded_time IS NOT NULL;
CREATE INDEX segments_gaps ON segments (video_row, position) WHERE gaps != '[]';

CREATE TABLE frame_blocks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- grows with time: the order of a file's blocks
    video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
    segment_row INTEGER REFERENCES segments ON DELETE CASCADE, -- that introduces them; NULL: a file's
    frame_count INTEGER NOT NULL,        -- F
    width INTEGER NOT NULL,              -- D, 0 without a visual encoder
    epochs BLOB NOT NULL,                -- int32 (F,)
    pts_seconds BLOB NOT NULL,           -- float64 (F,)
    vectors BLOB NOT NULL                -- float16 (F, D)
);
CREATE INDEX frame_blocks_video ON frame_blocks (video_row);
CREATE INDEX frame_blocks_segment ON frame_blocks (segment_row) WHERE segment_row IS NOT NULL;

CREATE TABLE thumbnails (
    id INTEGER PRIMARY KEY,
    video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
    segment_row INTEGER REFERENCES segments ON DELETE CASCADE, -- as in frame_blocks
    pts_seconds REAL NOT NULL,
    jpeg BLOB NOT NULL
);
CREATE INDEX thumbnails_time ON thumbnails (video_row, pts_seconds);
CREATE INDEX thumbnails_segment ON thumbnails (segment_row) WHERE segment_row IS NOT NULL;

CREATE TABLE utterances (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
    segment_row INTEGER REFERENCES segments ON DELETE CASCADE, -- as in frame_blocks
    position INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    start_seconds REAL NOT NULL,
    end_seconds REAL NOT NULL,
    text TEXT NOT NULL,
    search_text TEXT NOT NULL,           -- serve.catalog.spelling.search_words(text, language)
    words TEXT NOT NULL,                 -- JSON [[text, start_seconds, end_seconds, probability], ...]
    language TEXT NOT NULL,
    avg_logprob REAL,                    -- NULL: not a number
    no_speech_prob REAL,                 -- NULL: not a number
    vector BLOB,                         -- float32 (D,); NULL without a sentence encoder
    added_time REAL                      -- as in segments
);
CREATE UNIQUE INDEX utterances_position ON utterances (video_row, position);
CREATE INDEX utterances_segment ON utterances (segment_row) WHERE segment_row IS NOT NULL;
CREATE INDEX utterances_added ON utterances (video_row, position, added_time) WHERE added_time IS NOT NULL;

CREATE VIRTUAL TABLE utterance_search USING fts5 (
    search_text, content = 'utterances', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2'
);

-- What every question needs of a file and no question changes (serve.search.traits): half of a question's cost.
CREATE TABLE video_traits (
    video_row INTEGER PRIMARY KEY REFERENCES videos ON DELETE CASCADE,
    change_strengths BLOB NOT NULL,      -- float32 (N,): temporal.moments.shots.change_strengths
    captions TEXT NOT NULL,              -- serve.search.traits.CaptionBank.key of the captions behind `generic`
    generic TEXT NOT NULL                -- JSON [[temperature, mean, spread], ...] of the captions' scores
);

CREATE TABLE live_blocks (
    video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
    block INTEGER NOT NULL,              -- serve.catalog.live_blocks.block_of(position)
    generation INTEGER NOT NULL,         -- in which one of its segments was last added, changed or deleted
    PRIMARY KEY (video_row, block)
) WITHOUT ROWID;
CREATE INDEX live_blocks_changed ON live_blocks (video_row, generation);

CREATE TABLE consumed_offsets (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,           -- of the encoder space: another one reads the topic from its beginning
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, fingerprint)
) WITHOUT ROWID;

-- Deleted live videos, so that Kafka's older records do not bring them back.
CREATE TABLE deletions (
    collection TEXT NOT NULL,
    video_id TEXT NOT NULL,
    append_time REAL NOT NULL,           -- records appended earlier are ignored
    PRIMARY KEY (collection, video_id)
) WITHOUT ROWID;

-- The server's queue of videos to index (serve.indexing.jobs).
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of work; never used twice, see Catalog.finish
    collection TEXT NOT NULL,
    video_id TEXT NOT NULL,
    uri BLOB NOT NULL,                   -- what is fetched; a later step moves it out of the catalog
    spool_name TEXT,                     -- file of an upload's bytes, read instead of the URI; NULL: none
    display_uri BLOB NOT NULL,           -- what is shown, and becomes videos.uri
    metadata TEXT NOT NULL,
    recorded_time REAL,
    state TEXT NOT NULL CHECK (state IN ('QUEUED', 'RUNNING', 'FAILED')),
    progress REAL NOT NULL DEFAULT 0,    -- 0..1
    failure_reason TEXT NOT NULL DEFAULT '', -- UPPER_SNAKE
    failure_message TEXT NOT NULL DEFAULT '',
    attempt_count INTEGER NOT NULL DEFAULT 0, -- how often it was begun
    created_time REAL NOT NULL,
    changed_time REAL NOT NULL,          -- of its state
    UNIQUE (collection, video_id)
);
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX jobs_listed ON jobs (display_uri, collection, video_id);

-- Requests with a request_id, so that a repeated request gets the first answer (serve.indexing.jobs).
CREATE TABLE requests (
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    digest TEXT NOT NULL,                -- of the whole request
    collection TEXT NOT NULL,            -- with video_id: the answer
    video_id TEXT NOT NULL,
    created_time REAL NOT NULL,
    PRIMARY KEY (principal, request_id)
) WITHOUT ROWID;
CREATE INDEX requests_time ON requests (created_time);

-- Moderation (serve.catalog.events): the events that hold now, every change in order, and how far a video is scored.
CREATE TABLE events (
    event_id TEXT PRIMARY KEY,
    video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
    collection TEXT NOT NULL,
    video_id TEXT NOT NULL,
    policy_id TEXT NOT NULL,
    label TEXT NOT NULL,
    state TEXT NOT NULL,
    confidence REAL NOT NULL,
    start_seconds REAL NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT NOT NULL                   -- JSON of serve.event.Event
) WITHOUT ROWID;
CREATE INDEX events_video ON events (video_row);
CREATE INDEX events_listed ON events (collection, video_id, start_seconds, event_id);

CREATE TABLE event_changes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of changes; event_sinks refers to it
    event_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT NOT NULL                   -- as in events
);
CREATE INDEX event_changes_event ON event_changes (event_id, revision);

-- A deleted video takes its events and their matched words along. The last change of each event withdraws it.
CREATE TRIGGER events_gone AFTER DELETE ON events BEGIN
    DELETE FROM event_changes WHERE event_id = OLD.event_id;
    INSERT INTO event_changes (event_id, collection, revision, body) VALUES (
        OLD.event_id, OLD.collection, OLD.revision + 1,
        json_set(OLD.body, '$.state', 'WITHDRAWN', '$.revision', OLD.revision + 1, '$.matched_words', json('[]')));
END;

CREATE TABLE screenings (
    video_row INTEGER PRIMARY KEY REFERENCES videos ON DELETE CASCADE,
    turn INTEGER NOT NULL,               -- grows with every change of this row
    digest TEXT NOT NULL,                -- of the policies that scored it
    state TEXT NOT NULL                  -- JSON of the moderator
);

CREATE TABLE event_sinks (
    name TEXT PRIMARY KEY,               -- of a receiver of changes: Kafka, the webhook
    sequence INTEGER NOT NULL,           -- of the last change that was delivered
    state TEXT NOT NULL                  -- JSON of the sink's own
) WITHOUT ROWID;

INSERT INTO meta VALUES ('generation', '0');
INSERT INTO meta VALUES ('identity', lower(hex(randomblob(16))));
"""  # `identity` tells this catalog from another one made in the same place, whose keys begin again at 1

FIRST_VERSION = 6  # of TABLES; catalogs of versions 1 to 5 are rebuilt by `kinodex reindex`: serve.catalog.outdated
# The newest of several videos of one place gets it. SQL finds place_of() once add_functions() was called.
FILL_PLACES = (
    "INSERT OR REPLACE INTO places SELECT collection, place_of(uri), row FROM videos"
    " WHERE state = 'READY' AND NOT live AND place_of(uri) IS NOT NULL ORDER BY row"
)
# Jobs that will be fetched get a file for their URI if it has secrets.
STORE_SECRETS = "UPDATE {table} SET uri_name = store_secrets(uri) WHERE state != 'FAILED' AND spool_name IS NULL"
REDACT = (
    "UPDATE videos SET uri = redact(uri), warnings = redact_text(warnings)"
    " WHERE redact(uri) != uri OR redact_text(warnings) != warnings",
    "UPDATE jobs SET display_uri = redact(display_uri), failure_message = redact_text(failure_message)",
    "DELETE FROM places WHERE redact(place) != place",
)
# STEPS[n] leads from FIRST_VERSION + n to the next; never edited, only added. Their SQL may call the functions of
# add_functions().
STEPS: tuple[tuple[str, ...], ...] = (
    # normalise() spells numbers in another way
    (
        "INSERT INTO utterance_search (utterance_search) VALUES ('delete-all')",
        "UPDATE utterances SET search_text = normalise(text)",
        "INSERT INTO utterance_search (rowid, search_text) SELECT id, search_text FROM utterances"
        " WHERE video_row IN (SELECT row FROM videos WHERE state = 'READY')",
    ),
    (
        # Where the bytes of each file were last seen (serve.catalog.places).
        "CREATE TABLE places (collection TEXT NOT NULL, place BLOB NOT NULL, video_row INTEGER NOT NULL"
        " REFERENCES videos ON DELETE CASCADE, PRIMARY KEY (collection, place)) WITHOUT ROWID",
        "CREATE INDEX places_video ON places (video_row)",
        "CREATE INDEX videos_listed ON videos (collection, uri) WHERE state = 'READY'",
        "CREATE INDEX videos_content ON videos (collection, content_sha256) WHERE state = 'READY'",
        FILL_PLACES,
    ),
    # URIs are stored without secrets. What a job fetches moves out of the catalog (serve.catalog.fetch_uris).
    (
        "ALTER TABLE jobs ADD COLUMN uri_name TEXT",
        STORE_SECRETS.format(table="jobs"),
        "ALTER TABLE jobs DROP COLUMN uri",
        *REDACT,
    ),
    # Callers take turns in the queue, and each has a share of it.
    (
        "ALTER TABLE jobs ADD COLUMN caller TEXT NOT NULL DEFAULT ''",  # '': nobody is known
        "ALTER TABLE jobs ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0",  # of an upload's file
        "CREATE INDEX jobs_turns ON jobs (state, caller, id)",
    ),
    # Which topics the offsets belong to: a topic that is deleted and made anew has another id.
    (
        "CREATE TABLE consumed_topics (topic TEXT NOT NULL, fingerprint TEXT NOT NULL, topic_id TEXT NOT NULL,"
        " PRIMARY KEY (topic, fingerprint)) WITHOUT ROWID",
    ),
    # Text in pictures. The rows are as those of utterances: words of READY videos only in text_line_search.
    (
        "CREATE TABLE text_lines (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,"
        " segment_row INTEGER REFERENCES segments ON DELETE CASCADE, position INTEGER NOT NULL,"
        " epoch INTEGER NOT NULL, start_seconds REAL NOT NULL, end_seconds REAL NOT NULL, text TEXT NOT NULL,"
        " search_text TEXT NOT NULL, box TEXT NOT NULL,"  # JSON [left, top, right, bottom], 0..1
        " confidence REAL NOT NULL, vector BLOB, added_time REAL)",
        "CREATE UNIQUE INDEX text_lines_position ON text_lines (video_row, position)",
        "CREATE INDEX text_lines_segment ON text_lines (segment_row) WHERE segment_row IS NOT NULL",
        "CREATE INDEX text_lines_added ON text_lines (video_row, position, added_time) WHERE added_time IS NOT NULL",
        "CREATE VIRTUAL TABLE text_line_search USING fts5 (search_text, content = 'text_lines', content_rowid = 'id',"
        " tokenize = 'porter unicode61 remove_diacritics 2')",
        "ALTER TABLE videos ADD COLUMN text_line_count INTEGER NOT NULL DEFAULT 0",
    ),
    # Subtitles: where words come from (encoders.values.WordSource), and which subtitle files a video was indexed with.
    (
        "ALTER TABLE utterances ADD COLUMN source TEXT NOT NULL DEFAULT 'SPEECH'",
        "ALTER TABLE videos ADD COLUMN subtitles TEXT NOT NULL DEFAULT ''",  # JSON of UsedSubtitles
        # Transcripts that people imported: they stay when a video is indexed again.
        "CREATE TABLE imported_transcripts (video_row INTEGER PRIMARY KEY REFERENCES videos ON DELETE CASCADE,"
        " name TEXT NOT NULL,"  # of the file
        " utterances TEXT NOT NULL)",  # JSON [[start_seconds, end_seconds, text], ...]
    ),
    # Who speaks (serve.catalog.speech.speakers), and the language of the sound where the text is a translation.
    (
        "ALTER TABLE utterances ADD COLUMN speaker INTEGER NOT NULL DEFAULT 0",  # from 1; 0: not told apart
        "ALTER TABLE utterances ADD COLUMN spoken_language TEXT NOT NULL DEFAULT ''",  # '': that of the text
        "CREATE INDEX utterances_speaker ON utterances (video_row, speaker) WHERE speaker > 0",
        "CREATE TABLE speaker_names (video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,"
        " speaker INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (video_row, speaker)) WITHOUT ROWID",
    ),
    (
        # What people judge of moderation events (serve.catalog.events). A review outlives that its event is found anew.
        "CREATE TABLE event_reviews (event_id TEXT PRIMARY KEY,"
        " video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE, state TEXT NOT NULL,"
        " note TEXT NOT NULL, reviewer TEXT NOT NULL,"  # reviewer: the caller's name; empty: not known
        " review_time REAL NOT NULL) WITHOUT ROWID",
        "CREATE INDEX event_reviews_video ON event_reviews (video_row)",
        # As in TABLES, and a withdrawn event takes what people wrote of it along.
        "DROP TRIGGER events_gone",
        "CREATE TRIGGER events_gone AFTER DELETE ON events BEGIN"
        " DELETE FROM event_changes WHERE event_id = OLD.event_id;"
        " INSERT INTO event_changes (event_id, collection, revision, body) VALUES ("
        " OLD.event_id, OLD.collection, OLD.revision + 1,"
        " json_set(OLD.body, '$.state', 'WITHDRAWN', '$.revision', OLD.revision + 1, '$.matched_words', json('[]'),"
        " '$.review', json('null'))); END",
        # The live streams among many files (serve.live.stream_list).
        "CREATE INDEX videos_live ON videos (collection, video_id) WHERE state = 'READY' AND live",
    ),
    # Words of other languages than English are stored without their endings (serve.catalog.speech.stemming).
    (
        "CREATE INDEX utterances_language ON utterances (language)",
        "INSERT INTO utterance_search (utterance_search, rowid, search_text) SELECT 'delete', id, search_text"
        " FROM utterances WHERE language NOT IN ('', 'en')"
        " AND video_row IN (SELECT row FROM videos WHERE state = 'READY')",
        "UPDATE utterances SET search_text = search_words(text, language) WHERE language NOT IN ('', 'en')",
        "INSERT INTO utterance_search (rowid, search_text) SELECT id, search_text FROM utterances"
        " WHERE language NOT IN ('', 'en') AND video_row IN (SELECT row FROM videos WHERE state = 'READY')",
    ),
)
VERSION = FIRST_VERSION + len(STEPS)


def version(connection: sqlite3.Connection) -> int:
    """Return the schema version of an open file: 0 for a file without any table.

    Raises:
        ValueError: If the file is another program's database.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return 0
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID or "meta" not in tables:
        raise ValueError("catalog.sqlite is another program's database")
    stored = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if stored is None or not str(stored[0]).isdecimal():
        raise ValueError("catalog.sqlite does not say its schema version")
    return int(stored[0])


def create(connection: sqlite3.Connection, directory: Path) -> None:
    """Make all tables of VERSION, as part of the caller's transaction."""
    statement = ""
    for line in TABLES.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    _migrate_from(FIRST_VERSION, connection, directory)


def migrate(connection: sqlite3.Connection, directory: Path) -> None:
    """Bring an empty file, or a catalog from FIRST_VERSION on, to VERSION.

    It is one transaction: a killed migration leaves the older catalog whole. Bytes that it removes are overwritten.
    """
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    try:
        old = version(connection)
        if old == 0:
            create(connection, directory)
        else:
            _migrate_from(old, connection, directory)
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # the log held the removed bytes, too


def add_functions(connection: sqlite3.Connection, directory: Path) -> None:
    """Let the SQL of one connection to the catalog of a directory call functions of ours."""
    connection.create_function("normalise", 1, normalise, deterministic=True)
    connection.create_function("search_words", 2, search_words, deterministic=True)
    connection.create_function("place_of", 1, stored_place_of, deterministic=True)
    connection.create_function("redact", 1, lambda uri: uri_bytes(redact_uri(uri_of(uri))), deterministic=True)
    connection.create_function("redact_text", 1, redact_uris, deterministic=True)

    def store_secrets(stored: bytes) -> str | None:
        uri = uri_of(stored)
        return None if display_uri(uri) == uri else store_uri(directory, uri)

    connection.create_function("store_secrets", 1, store_secrets)


def _migrate_from(old: int, connection: sqlite3.Connection, directory: Path) -> None:
    add_functions(connection, directory)
    for step in STEPS[old - FIRST_VERSION :]:
        for statement in step:
            connection.execute(statement)
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", (str(VERSION),))
