"""A whole file that came by Kafka, on its way through a worker."""

import threading
from collections import deque
from collections.abc import Sequence

from ingest.errors import IngestError
from ingest.kafka import Record
from ingest.stream.stream_clock import MAX_LAG_SECONDS, EpochPart
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo
from serve.codec.records import Source
from serve.worker.video_flow import Submission, VideoFlow

PIECE_FRAMES = 16  # pictures of one piece: about as many seconds
MAX_PIECES = 4  # decoded and not encoded yet: bounds memory, 10 MB a piece
POLL_SECONDS = 0.2  # how soon the decoding thread notices that nobody waits for it


class FileCancelled(Exception):
    """Ends the decoding of a file that nobody waits for any more."""


class FileWork:
    """One file. Its decoding thread calls the methods that say so, the worker's thread all others."""

    def __init__(self, source: Source, record: Record) -> None:
        self.source, self.record = source, record
        self.name = source.uri  # in logs; without secrets once it is opened
        self.flow: VideoFlow | None = None  # there: it is open
        self.failure: IngestError | None = None
        self.is_cancelled = False
        self._free = threading.BoundedSemaphore(MAX_PIECES)
        self._placing: deque[EpochPart | None] = deque()  # None: the end
        self._under_way: deque[Submission] = deque()
        self._has_ended = False
        self.published: set[bytes] = set()  # keys of its segments

    # ---- the decoding thread's

    def put(self, placed: EpochPart | None) -> None:
        """Hand over a piece, or the end; waits while too many are under way.

        Raises:
            FileCancelled: If nobody waits for it.
        """
        while not self._free.acquire(timeout=POLL_SECONDS):
            if self.is_cancelled:
                raise FileCancelled
        if self.is_cancelled:
            raise FileCancelled
        self._placing.append(placed)

    # ---- the worker's thread's

    def take_submissions(self) -> list[Submission]:
        """Place the pieces that came, and return what is to be encoded of them."""
        assert self.flow is not None
        found = []
        while self._placing:
            placed = self._placing.popleft()
            if placed is None:
                self._has_ended = True
                submission = self.flow.end(is_last=True)
            else:
                submission = self.flow.place(
                    placed,
                    append_seconds=self.record.append_seconds,
                    recorded_time=recorded_time(self.source, placed),
                )
            self._under_way.append(submission)
            found.append(submission)
        return found

    def let_go_on(self) -> None:
        """Make room for as many pieces as are encoded."""
        while self._under_way and is_encoded(self._under_way[0]):
            self._under_way.popleft()
            self._free.release()

    @property
    def video_id(self) -> str:
        return self.source.video_id if self.flow is None else self.flow.video_id

    @property
    def is_done(self) -> bool:
        return (
            self._has_ended and not self._under_way and self.flow is not None
            and self.flow.is_settled and self.flow.needed is None
        )  # fmt: skip


def is_encoded(submission: Submission) -> bool:
    return submission.step.is_done and all(speech.is_done for speech in submission.speech)


def recorded_time(source: Source, placed: EpochPart) -> float | None:
    return None if source.recorded_time is None else source.recorded_time + placed.start_seconds


class Pieces:
    """Cuts what a decoder yields of a file into pieces. Its times are media time already."""

    def __init__(self) -> None:
        self._media: MediaInfo | None = None
        self._items: list[Frame | AudioBlock] = []
        self._frame_count = 0
        self._epoch = -1
        self._epoch_start = self._end = 0.0

    def push(self, item: Decoded) -> list[EpochPart]:
        """Take the next item; return the pieces that are whole now."""
        if isinstance(item, MediaInfo):
            self._media = item
            return []
        if isinstance(item, DecodeSummary):
            self._end = max(self._end, item.duration_seconds)
            return self._cut(is_last=True) if self._items else []
        found = self._cut() if self._items and item.epoch != self._items[-1].epoch else []
        self._items.append(item)
        self._frame_count += isinstance(item, Frame)
        self._end = max(self._end, item.pts_seconds if isinstance(item, Frame) else item.end_seconds)
        return found + self._cut() if self._frame_count >= PIECE_FRAMES else found

    def _cut(self, *, is_last: bool = False) -> list[EpochPart]:
        assert self._media is not None
        items, self._items, self._frame_count = self._items, [], 0
        opens = items[0].epoch != self._epoch
        start = begin_of(items)
        if opens:
            self._epoch, self._epoch_start = items[0].epoch, start if items[0].epoch else 0.0
        return [
            EpochPart(
                media=self._media,
                frames=tuple(item for item in items if isinstance(item, Frame)),
                sounds=tuple(item for item in items if isinstance(item, AudioBlock)),
                epoch=self._epoch,
                epoch_start_seconds=self._epoch_start,
                start_seconds=start,
                end_seconds=self._end,
                whole_seconds=self._end if is_last else self._whole_seconds(items),
                opens_epoch=opens,
            )
        ]

    def _whole_seconds(self, items: Sequence[Frame | AudioBlock]) -> float:
        """Return the media time before which no picture comes any more."""
        assert self._media is not None
        if self._media.video_codec is None:
            return self._end
        shown = [item.pts_seconds for item in items if isinstance(item, Frame)]
        return max([self._end - MAX_LAG_SECONDS, *shown])


def begin_of(items: Sequence[Frame | AudioBlock]) -> float:
    return min(item.pts_seconds if isinstance(item, Frame) else item.start_seconds for item in items)
