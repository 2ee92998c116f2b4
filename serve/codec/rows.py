"""Rows -> messages: a row that no message can carry does not cost its neighbours, and alone it is a typed error."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import Message

from serve.errors import VideoDamaged
from serve.values import VideoStatus

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Written = TypeVar("Written", bound=Message)


def write_rows(write: Callable[[Row], Written], rows: Iterable[Row]) -> Iterator[Written]:
    """Yield the message of each row. A row that none can carry, such as one of the year 10000, is logged and left out.

    Args:
        write: Raises ValueError or OverflowError for such a row.
    """
    for row in rows:
        try:
            message = write(row)
        except (ValueError, OverflowError) as error:
            log_unwritable(row, error)
        else:
            yield message


def write_single(write: Callable[[VideoStatus], Written], video: VideoStatus) -> Written:
    """Return the message of one video, for the answers that have only this one.

    Raises:
        VideoDamaged: If `write` raises ValueError or OverflowError, as for write_rows().
    """
    try:
        return write(video)
    except (ValueError, OverflowError) as error:
        log_unwritable(video, error)
        raise VideoDamaged(video.video_id, str(error)) from error


def log_unwritable(row: object, error: Exception) -> None:
    """Log that a moment, a video or an event is left out of what callers get."""
    place = getattr(row, "moment", row)  # of a change: its moment
    logger.error(
        "row left out kind=%s collection=%s video_id=%s reason=%s",
        type(row).__name__, getattr(place, "collection", ""), getattr(place, "video_id", ""), error,
    )  # fmt: skip
