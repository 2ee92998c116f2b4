"""The catalog's tables, and the steps that bring an older catalog forward.

Every table of a video's rows hangs on `videos` with ON DELETE CASCADE. `utterance_search` holds the words of READY
videos only, so that scores and counts never depend on a video that is still being written: Catalog fills it in
finish() and empties it where a READY row goes.

Keys are AUTOINCREMENT: a key is never used twice, so an index that still holds a key of a deleted row can only miss,
never point at something else.
"""

import sqlite3
from uuid import uuid4

APPLICATION_ID = 0x4B494E4F  # "KINO": tells our file from any other SQLite file

_VERSION_1 = (
    """CREATE TABLE meta (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE videos (
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        video_id TEXT NOT NULL,
        collection TEXT NOT NULL,
        uri BLOB NOT NULL,            -- UTF-8; a file name that is no UTF-8 keeps its bytes
        content_sha256 TEXT NOT NULL,
        fingerprint TEXT NOT NULL,    -- of the encoder space its vectors were made in
        state TEXT NOT NULL CHECK (state IN ('PROCESSING', 'READY')),
        media TEXT NOT NULL DEFAULT '{}',    -- JSON of MediaInfo
        duration_seconds REAL NOT NULL DEFAULT 0,
        frame_count INTEGER NOT NULL DEFAULT 0,
        segment_count INTEGER NOT NULL DEFAULT 0,
        utterance_count INTEGER NOT NULL DEFAULT 0,
        warnings TEXT NOT NULL DEFAULT '[]', -- JSON list of strings
        indexed_time REAL NOT NULL DEFAULT 0 -- seconds since 1970, UTC
    )""",
    "CREATE UNIQUE INDEX videos_ready ON videos (collection, video_id) WHERE state = 'READY'",
    """CREATE TABLE frame_blocks (
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- grows with time: the order of a video's blocks
        video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
        frame_count INTEGER NOT NULL,         -- F
        width INTEGER NOT NULL,               -- D, 0 where there was no visual encoder
        epochs BLOB NOT NULL,                 -- int32 (F,), little-endian as all arrays here
        pts_seconds BLOB NOT NULL,            -- float64 (F,)
        vectors BLOB NOT NULL                 -- float16 (F, D)
    )""",
    "CREATE INDEX frame_blocks_video ON frame_blocks (video_row)",
    """CREATE TABLE thumbnails (
        id INTEGER PRIMARY KEY,
        video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
        pts_seconds REAL NOT NULL,
        jpeg BLOB NOT NULL
    )""",
    "CREATE INDEX thumbnails_time ON thumbnails (video_row, pts_seconds)",
    """CREATE TABLE utterances (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
        position INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        start_seconds REAL NOT NULL,
        end_seconds REAL NOT NULL,
        text TEXT NOT NULL,
        search_text TEXT NOT NULL,   -- serve.lexical.normalise(text)
        words TEXT NOT NULL,         -- JSON [[text, start_seconds, end_seconds, probability], ...]
        language TEXT NOT NULL,
        avg_logprob REAL,            -- NULL is not-a-number
        no_speech_prob REAL,         -- NULL is not-a-number
        vector BLOB                  -- float32 (D,), NULL without a sentence encoder
    )""",
    "CREATE UNIQUE INDEX utterances_position ON utterances (video_row, position)",
    """CREATE TABLE segments (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
        position INTEGER NOT NULL,
        segment_id TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        segment_index INTEGER NOT NULL,
        start_seconds REAL NOT NULL,
        end_seconds REAL NOT NULL,
        vector BLOB                  -- float32 (D,), NULL where no picture was seen
    )""",
    "CREATE UNIQUE INDEX segments_position ON segments (video_row, position)",
    """CREATE VIRTUAL TABLE utterance_search USING fts5 (
        search_text, content = 'utterances', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2'
    )""",
    "INSERT INTO meta VALUES ('generation', '0')",
)

# What a server needs: what callers say of a video, work that waits, and requests that may come twice.
_VERSION_2 = (
    "ALTER TABLE videos ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}'",  # JSON object of strings
    "ALTER TABLE videos ADD COLUMN recorded_time REAL",  # of its first picture, seconds since 1970; NULL: not known
    """CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which they are done; never used twice, see Catalog.finish
        collection TEXT NOT NULL,
        video_id TEXT NOT NULL,
        uri BLOB NOT NULL,           -- what is fetched; may hold credentials
        spool_name TEXT,             -- file of an upload's bytes, fetched instead of the URI; NULL: none
        display_uri BLOB NOT NULL,   -- what is shown, and becomes videos.uri
        metadata TEXT NOT NULL,
        recorded_time REAL,
        state TEXT NOT NULL CHECK (state IN ('QUEUED', 'RUNNING', 'FAILED')),
        progress REAL NOT NULL DEFAULT 0,           -- 0..1
        failure_reason TEXT NOT NULL DEFAULT '',    -- UPPER_SNAKE
        failure_message TEXT NOT NULL DEFAULT '',
        attempt_count INTEGER NOT NULL DEFAULT 0,   -- how often it was begun
        created_time REAL NOT NULL,                 -- seconds since 1970, UTC
        changed_time REAL NOT NULL,                 -- of its state
        UNIQUE (collection, video_id)
    )""",
    "CREATE INDEX jobs_state ON jobs (state, id)",
    "CREATE INDEX jobs_listed ON jobs (display_uri, collection, video_id)",
    """CREATE TABLE requests (
        principal TEXT NOT NULL,
        request_id TEXT NOT NULL,
        method TEXT NOT NULL,
        digest TEXT NOT NULL,        -- of all that was asked
        collection TEXT NOT NULL,    -- with video_id: what was answered
        video_id TEXT NOT NULL,
        created_time REAL NOT NULL,
        PRIMARY KEY (principal, request_id)
    ) WITHOUT ROWID""",
    "CREATE INDEX requests_time ON requests (created_time)",
)

STEPS: tuple[tuple[str, ...], ...] = (
    _VERSION_1,
    _VERSION_2,
)  # STEPS[n] leads from version n to n + 1; never edited, only added to
VERSION = len(STEPS)


def version(connection: sqlite3.Connection) -> int:
    """Return the schema version of an open file: 0 for one without any table.

    Raises:
        ValueError: If the file is some other program's database.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return 0
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID or "meta" not in tables:
        raise ValueError("catalog.sqlite is some other program's database")
    found = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if found is None or not str(found[0]).isdecimal():
        raise ValueError("catalog.sqlite does not say its schema version")
    return int(found[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to VERSION, in one transaction: a killed migration leaves the older catalog whole."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        old = version(connection)
        for step in STEPS[old:]:
            for statement in step:
                connection.execute(statement)
        if old == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            # Tells this catalog from one made anew in the same place, whose keys begin again at 1.
            connection.execute("INSERT INTO meta VALUES ('identity', ?)", (uuid4().hex,))
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", (str(VERSION),))
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
