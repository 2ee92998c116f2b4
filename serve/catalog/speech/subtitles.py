"""Which subtitles a video was indexed with: the column `videos.subtitles`."""

import json
from dataclasses import asdict, dataclass

from serve.catalog.catalog import Catalog
from serve.catalog.reader import CatalogReader


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedSubtitles:
    """The subtitles of an indexed video."""

    beside: str = ""  # ingest.source.sidecars.digest_of() the files beside it; empty: there were none
    name: str = ""  # of the file or track whose words were taken; empty: none were


def set_subtitles(catalog: Catalog, row: int, used: UsedSubtitles) -> None:
    """Store the subtitles of a video that was begun."""
    with catalog.writing() as write:
        write.execute("UPDATE videos SET subtitles = ? WHERE row = ?", (json.dumps(asdict(used)), row))


def subtitles_of(catalog: CatalogReader, row: int) -> UsedSubtitles:
    """Return the subtitles of a video; a deleted one has none."""
    rows = catalog.select("SELECT subtitles FROM videos WHERE row = ?", row)
    return UsedSubtitles(**json.loads(rows[0][0])) if rows and rows[0][0] else UsedSubtitles()
