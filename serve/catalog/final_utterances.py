"""FinalUtterances: the words of a video that no revision changes, said or written. Moderation and standing queries read
them."""

import math

from encoders.values import TextLine, Utterance
from serve.catalog.reader import CatalogReader, WordedKind
from serve.catalog.rows import UTTERANCE_FIELDS, utterance_of
from serve.catalog.text_lines import FIELDS, line_of
from serve.values import Video


class FinalUtterances:
    """The final utterances and lines of text of videos, in order of time.

    An utterance of a live video is final if it begins before the video's watermark: every word before it is known.
    """

    def __init__(self, catalog: CatalogReader) -> None:
        self.catalog = catalog

    def after(self, video: Video, position: int) -> list[tuple[int, Utterance]]:
        """Return the positions and the final utterances of a video behind a position; -1: all of them."""
        final = []
        for utterance_position, words, *fields in self.catalog.select(
            f"SELECT position, words, {UTTERANCE_FIELDS} FROM utterances WHERE video_row = ? AND position > ?"
            " ORDER BY position", video.row, position,
        ):  # fmt: skip
            utterance = utterance_of(tuple(fields), words)
            if not video.is_final_until(math.nextafter(utterance.start_seconds, math.inf)):
                break
            final.append((utterance_position, utterance))
        return final

    def lines_after(self, video: Video, position: int) -> list[tuple[int, TextLine]]:
        """Return the positions and the final lines of text behind a position, as after()."""
        final = []
        for line_position, *fields in self.catalog.select(
            f"SELECT position, {FIELDS} FROM text_lines WHERE video_row = ? AND position > ? ORDER BY position",
            video.row, position,
        ):  # fmt: skip
            line = line_of(fields)
            if not video.is_final_until(math.nextafter(line.start_seconds, math.inf)):
                break
            final.append((line_position, line))
        return final

    def last_position(self, video: Video, kind: WordedKind = "utterances") -> int:
        """Return the position of the last final utterance, or line of text; -1: there is none."""
        until = math.inf if video.is_final_until(math.inf) else video.watermark_seconds
        ((last,),) = self.catalog.select(
            f"SELECT coalesce(max(position), -1) FROM {kind} WHERE video_row = ? AND start_seconds < ?",
            video.row, until,
        )  # fmt: skip
        return int(last)
