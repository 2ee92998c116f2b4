"""Who speaks in a video: the speakers of its utterances, and the names that people gave them. No voice is stored."""

import json
import sqlite3
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from serve.catalog.reader import CatalogReader
from serve.values import Speaker


def read_speakers(catalog: CatalogReader, row: int) -> list[Speaker]:
    """Return the speakers of a video by number; none: they are not told apart."""
    rows = catalog.select(
        "SELECT speaker, coalesce(name, ''), count(*), sum(end_seconds - start_seconds), min(start_seconds)"
        " FROM utterances LEFT JOIN speaker_names USING (video_row, speaker)"
        " WHERE video_row = ? AND speaker > 0 GROUP BY speaker ORDER BY speaker", row,
    )  # fmt: skip
    return [
        Speaker(number=number, name=name, utterance_count=count, speech_seconds=seconds, start_seconds=start)
        for number, name, count, seconds, start in rows
    ]


def name_speaker(edit: sqlite3.Connection, row: int, number: int, name: str) -> bool:
    """Give a speaker of a video a name; an empty one takes the name away. Return whether there is such a speaker."""
    known = edit.execute("SELECT 1 FROM utterances WHERE video_row = ? AND speaker = ?", (row, number)).fetchone()
    if number < 1 or known is None:
        return False
    if name:
        edit.execute("INSERT OR REPLACE INTO speaker_names VALUES (?, ?, ?)", (row, number, name))
    else:
        edit.execute("DELETE FROM speaker_names WHERE video_row = ? AND speaker = ?", (row, number))
    return True


def said_by(catalog: CatalogReader, speaker: str, places: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return those places of utterances, as of Catalog.locate(), that a speaker says.

    Args:
        speaker: The number of a speaker in each video, or a name, in any case of letters.
    """
    wanted = speaker.strip()
    if wanted.isdecimal():
        named, number = [], int(wanted)
    else:
        rows = catalog.select("SELECT video_row, speaker, name FROM speaker_names")
        named, number = [[row, own] for row, own, name in rows if name.casefold() == wanted.casefold()], -1
    found = catalog.select(
        "SELECT video_row, position FROM json_each(?1) AS place"
        " JOIN utterances ON video_row = place.value ->> 0 AND position = place.value ->> 1 WHERE speaker = ?2"
        " OR (speaker > 0 AND (video_row, speaker) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?3)))",
        json.dumps([list(place) for place in places]), number, json.dumps(named),
    )  # fmt: skip
    return {(row, position) for row, position in found}


def has_speakers(catalog: CatalogReader) -> bool:
    """Whether the speakers of any video are told apart."""
    return bool(catalog.select("SELECT 1 FROM utterances INDEXED BY utterances_speaker WHERE speaker > 0 LIMIT 1"))


def hand_over_names(write: sqlite3.Connection, old: int, new: int) -> None:
    """Name the speakers of the new rows of a video as those of its old rows, if both were made of the same bytes.

    The numbers may differ, as another speech model hears other words. So a name goes to the speaker who speaks most
    while the named one spoke, if that is at least half of the time.
    """
    names = write.execute(
        "SELECT speaker, name FROM speaker_names WHERE video_row = ?1 AND (SELECT content_sha256 FROM videos"
        " WHERE row = ?1) = (SELECT content_sha256 FROM videos WHERE row = ?2) ORDER BY speaker", (old, new)
    ).fetchall()  # fmt: skip
    if not names:
        return
    said = "SELECT speaker, start_seconds, end_seconds FROM utterances WHERE video_row = ? AND speaker > 0"
    now = np.array(write.execute(said, (new,)).fetchall(), np.float64).reshape(-1, 3)
    then = write.execute(said, (old,)).fetchall()
    shares = []
    for speaker, name in names:
        spans = [(start, end) for own, start, end in then if own == speaker]
        shared = shared_seconds(spans, now)
        number = max(sorted(shared), key=shared.__getitem__, default=0)
        if number and 2 * shared[number] >= sum(end - start for start, end in spans):
            shares.append((shared[number], number, name))
    for _, number, name in sorted(shares):  # of several names for one speaker the one who spoke longest stays
        write.execute("INSERT OR REPLACE INTO speaker_names VALUES (?, ?, ?)", (new, number, name))


def shared_seconds(spans: Sequence[tuple[float, float]], said: NDArray[np.float64]) -> dict[int, float]:
    """Return for how long each speaker speaks within spans.

    Args:
        said: float64 (U, 3): speaker, start and end of utterances.
    """
    shared: dict[int, float] = {}
    for start, end in spans:
        seconds = np.minimum(said[:, 2], end) - np.maximum(said[:, 1], start)
        for row in np.flatnonzero(seconds > 0):
            number = int(said[row, 0])
            shared[number] = shared.get(number, 0.0) + float(seconds[row])
    return shared
