"""What will not be revised of what is said."""

import math

from encoders.values import Utterance
from serve.catalog.reader import CatalogReader
from serve.catalog.rows import UTTERANCE_FIELDS, utterance_of
from serve.values import Video


class FinalUtterances:
    """What will not be revised of what is said, with its words, in order.

    Of a live video that is all that begins before its watermark: every word before it is known.
    """

    def __init__(self, catalog: CatalogReader) -> None:
        self.catalog = catalog

    def after(self, video: Video, position: int) -> list[tuple[int, Utterance]]:
        """Return the final utterances of a video behind a position, each with its own; -1: all of them."""
        found = []
        for at, words, *fields in self.catalog.select(
            f"SELECT position, words, {UTTERANCE_FIELDS} FROM utterances WHERE video_row = ? AND position > ?"
            " ORDER BY position", video.row, position,
        ):  # fmt: skip
            utterance = utterance_of(tuple(fields), words)
            if not video.is_final_until(math.nextafter(utterance.start_seconds, math.inf)):
                break
            found.append((at, utterance))
        return found

    def last_position(self, video: Video) -> int:
        """Return the position of the last one; -1: there is none."""
        until = math.inf if video.is_final_until(math.inf) else video.watermark_seconds
        ((found,),) = self.catalog.select(
            "SELECT coalesce(max(position), -1) FROM utterances WHERE video_row = ? AND start_seconds < ?",
            video.row, until,
        )  # fmt: skip
        return int(found)
