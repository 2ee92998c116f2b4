"""The catalog's tables, and the steps that bring an older catalog forward.

Every table of a video's rows hangs on `videos` with ON DELETE CASCADE. `utterance_search` holds the words of READY
videos only, so that scores and counts never depend on a video that is still being written: Catalog fills it in
finish() and empties it where a READY row goes.

Keys are AUTOINCREMENT: a key is never used twice, so an index that still holds a key of a deleted row can only miss,
never point at something else.

A file's rows never change once it is READY. A live video's do, several times a second: its frames, thumbnails and
utterances hang on the segment that introduces them, and are replaced with it. `live_blocks` says when each run of its
neighbouring segments last changed, so that whoever keeps rows in memory reads only those runs again (serve.live.edit
makes them, serve.search.video_rows reads them).
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
        search_text TEXT NOT NULL,   -- serve.catalog.spelling.normalise(text)
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

# Live videos: rows that come from Kafka, are revised, and are pruned from the old end.
_VERSION_3 = (
    "ALTER TABLE videos ADD COLUMN live INTEGER NOT NULL DEFAULT 0",  # 1: fed by Kafka; 0: a file, which never changes
    "ALTER TABLE videos ADD COLUMN ended INTEGER NOT NULL DEFAULT 1",  # 0: a live video that goes on
    "ALTER TABLE videos ADD COLUMN watermark_seconds REAL",  # before it all is final; NULL: everything is
    "ALTER TABLE videos ADD COLUMN watermark_moved_time REAL",  # when it last moved, seconds since 1970
    "ALTER TABLE videos ADD COLUMN anchors TEXT NOT NULL DEFAULT '[]'",  # JSON [[epoch, media s, s since 1970], ...]
    "ALTER TABLE videos ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0",  # of a live video's segments, all told
    "ALTER TABLE videos ADD COLUMN changed_generation INTEGER NOT NULL DEFAULT 0",  # in which the row last changed
    "CREATE INDEX videos_changed ON videos (changed_generation) WHERE state = 'READY'",
    "CREATE INDEX videos_space ON videos (fingerprint) WHERE state = 'READY'",
    # The next ones are of live videos' segments; those of files have what is written here.
    "ALTER TABLE segments ADD COLUMN revision INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE segments ADD COLUMN final INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE segments ADD COLUMN added_time REAL",  # of the row, seconds since 1970; NULL: of a file
    "ALTER TABLE segments ADD COLUMN source_append_time REAL",  # of the oldest record it was made of
    "ALTER TABLE segments ADD COLUMN recorded_time REAL",  # when its span begins; NULL: not known
    "ALTER TABLE segments ADD COLUMN watermark_seconds REAL",  # the latest that was told with it
    "ALTER TABLE segments ADD COLUMN last INTEGER NOT NULL DEFAULT 0",  # 1: the video ends with it
    "ALTER TABLE segments ADD COLUMN gaps TEXT NOT NULL DEFAULT '[]'",  # JSON list of strings
    "ALTER TABLE segments ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0",  # with all that hangs on it
    "CREATE INDEX segments_named ON segments (segment_id) WHERE added_time IS NOT NULL",
    "CREATE INDEX segments_added ON segments (video_row, position, added_time) WHERE added_time IS NOT NULL",
    "CREATE INDEX segments_recorded ON segments (video_row, position) WHERE recorded_time IS NOT NULL",
    "CREATE INDEX segments_gaps ON segments (video_row, position) WHERE gaps != '[]'",
    # The segment that introduces them; NULL: of a file.
    "ALTER TABLE frame_blocks ADD COLUMN segment_row INTEGER REFERENCES segments ON DELETE CASCADE",
    "CREATE INDEX frame_blocks_segment ON frame_blocks (segment_row) WHERE segment_row IS NOT NULL",
    "ALTER TABLE thumbnails ADD COLUMN segment_row INTEGER REFERENCES segments ON DELETE CASCADE",
    "CREATE INDEX thumbnails_segment ON thumbnails (segment_row) WHERE segment_row IS NOT NULL",
    "ALTER TABLE utterances ADD COLUMN segment_row INTEGER REFERENCES segments ON DELETE CASCADE",
    "CREATE INDEX utterances_segment ON utterances (segment_row) WHERE segment_row IS NOT NULL",
    "ALTER TABLE utterances ADD COLUMN added_time REAL",  # as of segments
    "CREATE INDEX utterances_added ON utterances (video_row, position, added_time) WHERE added_time IS NOT NULL",
    """CREATE TABLE live_blocks (
        video_row INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE,
        block INTEGER NOT NULL,      -- serve.catalog.blocks.block_of(position)
        generation INTEGER NOT NULL, -- in which a segment of it last came, changed or went
        PRIMARY KEY (video_row, block)
    ) WITHOUT ROWID""",
    "CREATE INDEX live_blocks_changed ON live_blocks (video_row, generation)",
    """CREATE TABLE consumed_offsets (
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,   -- whose rows were taken over: other encoders begin at the beginning
        next_offset INTEGER NOT NULL,
        PRIMARY KEY (topic, partition, fingerprint)
    ) WITHOUT ROWID""",
    """CREATE TABLE deletions (
        collection TEXT NOT NULL,
        video_id TEXT NOT NULL,
        append_time REAL NOT NULL,   -- what was appended earlier does not come back; seconds since 1970
        PRIMARY KEY (collection, video_id)
    ) WITHOUT ROWID""",
)

# Moderation: what was found, every change of it in order, and how far each video is scored (serve.catalog.events).
_VERSION_4 = (
    """CREATE TABLE events (
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
        body TEXT NOT NULL           -- JSON of serve.event.Event
    ) WITHOUT ROWID""",
    "CREATE INDEX events_video ON events (video_row)",
    "CREATE INDEX events_listed ON events (collection, video_id, start_seconds, event_id)",
    """CREATE TABLE event_changes (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- their order; what was told is told up to one of these
        event_id TEXT NOT NULL,
        collection TEXT NOT NULL,
        revision INTEGER NOT NULL,
        body TEXT NOT NULL           -- as of events
    )""",
    "CREATE INDEX event_changes_event ON event_changes (event_id, revision)",
    # With a video go its events, and what was said in it; who was told of them is told that they are withdrawn.
    """CREATE TRIGGER events_gone AFTER DELETE ON events BEGIN
        DELETE FROM event_changes WHERE event_id = OLD.event_id;
        INSERT INTO event_changes (event_id, collection, revision, body) VALUES (
            OLD.event_id, OLD.collection, OLD.revision + 1,
            json_set(OLD.body, '$.state', 'WITHDRAWN', '$.revision', OLD.revision + 1, '$.matched_words', json('[]')));
    END""",
    """CREATE TABLE screenings (
        video_row INTEGER PRIMARY KEY REFERENCES videos ON DELETE CASCADE,
        turn INTEGER NOT NULL,       -- counts up with every change of this row
        digest TEXT NOT NULL,        -- of the policies, as serve.screenings knows them
        state TEXT NOT NULL          -- JSON
    )""",
    """CREATE TABLE event_sinks (
        name TEXT PRIMARY KEY,       -- who is told
        sequence INTEGER NOT NULL,   -- up to which change it was
        state TEXT NOT NULL          -- JSON of its own
    ) WITHOUT ROWID""",
)

# What a question needs of a video it finds, and no question changes (serve.search.traits): half of its cost otherwise.
_VERSION_5 = (
    """CREATE TABLE video_traits (
        video_row INTEGER PRIMARY KEY REFERENCES videos ON DELETE CASCADE, -- of a file
        change_strengths BLOB NOT NULL, -- float32 (N,): temporal.moments.shots.change_strengths
        captions TEXT NOT NULL,         -- which captions of anything: serve.search.traits.Captions.key
        generic TEXT NOT NULL           -- JSON [[temperature, mean, spread], ...] of their scores
    )""",
)

STEPS: tuple[tuple[str, ...], ...] = (
    _VERSION_1,
    _VERSION_2,
    _VERSION_3,
    _VERSION_4,
    _VERSION_5,
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
