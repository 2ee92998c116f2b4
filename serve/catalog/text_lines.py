"""Lines of text in pictures: the rows of `text_lines`. Catalog makes their words searchable, and deletes them."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.values import Box, TextLine
from serve.catalog.catalog import Catalog
from serve.catalog.reader import CatalogReader
from serve.catalog.rows import vector_bytes, vectors_of
from serve.catalog.spelling import normalise

FIELDS = "epoch, start_seconds, end_seconds, text, box, confidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLineRow:
    """A line of text, its vector and its place in the catalog."""

    row: int  # of its video
    position: int  # as in Catalog.locate()
    line: TextLine
    vector: NDArray[np.float32]  # (D,), unit length; zeros without a sentence encoder


def add_text_lines(catalog: Catalog, row: int, lines: Sequence[TextLine], vectors: NDArray[np.float32]) -> None:
    """Append lines to a video that was begun, later than its lines before.

    Args:
        row: From Catalog.begin().
        lines: L lines, in order of time.
        vectors: float32 (L, D), unit length; D is 0 without a sentence encoder.
    """
    if vectors.ndim != 2 or len(vectors) != len(lines):
        raise ValueError(f"vectors must be ({len(lines)}, D), got {vectors.shape}")
    with catalog.writing() as write:
        first = catalog.next_position("text_lines", row)
        insert_text_lines(write, row, zip(count(first), lines, vectors, strict=False))


def insert_text_lines(
    write: sqlite3.Connection,
    row: int,
    lines: Iterable[tuple[int, TextLine, NDArray[np.float32]]],
    segment_row: int | None = None,
    added_time: float | None = None,
) -> None:
    """Insert lines of the video in a row; the arguments are those of serve.catalog.rows.insert_utterances()."""
    write.executemany(
        "INSERT INTO text_lines (video_row, segment_row, position, epoch, start_seconds, end_seconds, text,"
        " search_text, box, confidence, vector, added_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (row, segment_row, position, line.epoch, line.start_seconds, line.end_seconds, line.text,
             normalise(line.text), json.dumps([line.box.left, line.box.top, line.box.right, line.box.bottom]),
             line.confidence, vector_bytes(vector), added_time)
            for position, line, vector in lines
        ),
    )  # fmt: skip


def text_lines(catalog: CatalogReader, row: int) -> list[TextLine]:
    """Return the lines of a READY video, in order of time; none: it has none, or is deleted."""
    rows = catalog.select(f"SELECT {FIELDS} FROM text_lines WHERE video_row = ? ORDER BY position", row)
    return [line_of(fields) for fields in rows]


def lines_with(catalog: CatalogReader, places: Sequence[tuple[int, int]]) -> list[TextLineRow]:
    """Return the lines at places of Catalog.locate(), and all that share a picture with one, by row and position."""
    fields = ", ".join(f"beside.{name}" for name in FIELDS.split(", "))
    rows = catalog.select(
        f"SELECT DISTINCT beside.video_row, beside.position, beside.vector, {fields} FROM json_each(?) AS place"
        " JOIN text_lines AS own ON own.video_row = place.value ->> 0 AND own.position = place.value ->> 1"
        " JOIN text_lines AS beside ON beside.video_row = own.video_row AND beside.epoch = own.epoch"
        " AND (beside.start_seconds = own.start_seconds"
        " OR beside.start_seconds < own.end_seconds AND beside.end_seconds > own.start_seconds)"
        " ORDER BY beside.video_row, beside.position",
        json.dumps([list(place) for place in places]),
    )
    vectors = vectors_of([fields[2] for fields in rows], catalog.directory)
    return [
        TextLineRow(row=row, position=position, line=line_of(fields), vector=vector)
        for vector, (row, position, _, *fields) in zip(vectors, rows, strict=True)
    ]


def line_of(fields: Sequence[Any]) -> TextLine:
    """Return a line of its columns FIELDS."""
    epoch, start, end, text, box, confidence = fields
    left, top, right, bottom = json.loads(box)
    return TextLine(
        epoch=epoch, start_seconds=start, end_seconds=end, text=text, confidence=confidence,
        box=Box(left=left, top=top, right=right, bottom=bottom),
    )  # fmt: skip
