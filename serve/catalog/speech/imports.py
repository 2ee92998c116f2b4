"""Transcripts that people imported: rows of `imported_transcripts`. They stay when a video is indexed again."""

import json
from dataclasses import dataclass

from ingest.values import Subtitle
from serve.catalog.catalog import Catalog
from serve.catalog.reader import CatalogReader


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedTranscript:
    """The words of a video as somebody corrected them."""

    name: str  # of the file that was imported
    lines: tuple[Subtitle, ...]  # in order of their starts


def set_import(catalog: Catalog, row: int, imported: ImportedTranscript) -> None:
    """Store the transcript of a video that was begun."""
    lines = [[one.start_seconds, one.end_seconds, one.text] for one in imported.lines]
    with catalog.writing() as write:
        write.execute(
            "INSERT INTO imported_transcripts (video_row, name, utterances) VALUES (?, ?, ?)",
            (row, imported.name, json.dumps(lines)),
        )


def import_of(catalog: CatalogReader, row: int) -> ImportedTranscript | None:
    """Return the imported transcript of a video; None: it has none, or is deleted."""
    rows = catalog.select("SELECT name, utterances FROM imported_transcripts WHERE video_row = ?", row)
    if not rows:
        return None
    name, lines = rows[0]
    return ImportedTranscript(name=name, lines=tuple(Subtitle(*line) for line in json.loads(lines)))
