"""FileWork: a whole file that Kafka named, between decoding and publishing. FileCutter: cuts it into pieces."""

import threading
from collections import deque
from collections.abc import Sequence

from ingest.errors import IngestError
from ingest.kafka import Record
from ingest.source.source import display_uri
from ingest.stream.stream_clock import EpochPart
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo, SubtitleTrack
from serve.codec.records import Source
from serve.worker.video_flow import MAX_FILE_LAG_SECONDS, Submission, VideoFlow

PIECE_FRAMES = 16  # pictures of one piece: about as many seconds
PIECE_SECONDS = 16.0  # of sound in one piece: 1 MB
MAX_PIECES = 4  # decoded and not encoded yet: bounds memory, 10 MB a piece
MAX_LATER_ITEMS = 64  # pictures and sound of the next epoch that wait for the rest of this one: 10 MB
POLL_SECONDS = 0.2  # the longest that the decoding thread takes to notice a cancelled file


class FileCancelled(Exception):
    """Ends the decoding of a file whose partition was given up."""


class FileWork:
    """One file. Its decoding thread calls put(), the worker's thread all other methods."""

    def __init__(self, source: Source, record: Record) -> None:
        self.source, self.record = source, record
        self.name = display_uri(source.uri)  # in logs
        self.flow: VideoFlow | None = None  # set when the file is open
        self.failure: IngestError | None = None
        self.is_cancelled = False
        self._free = threading.BoundedSemaphore(MAX_PIECES)
        self._pieces: deque[EpochPart | None] = deque()  # that wait to be placed; None: the end
        self._submissions: deque[Submission] = deque()  # being encoded, in order
        self._has_ended = False
        self.published: set[bytes] = set()  # keys of its segments

    # ---- for the decoding thread

    def put(self, placed: EpochPart | None) -> None:
        """Hand over a piece, or None at the end; wait while MAX_PIECES are being encoded.

        Raises:
            FileCancelled: If the file is cancelled.
        """
        while not self._free.acquire(timeout=POLL_SECONDS):
            if self.is_cancelled:
                raise FileCancelled
        if self.is_cancelled:
            raise FileCancelled
        self._pieces.append(placed)

    # ---- for the worker's thread

    def take_submissions(self) -> list[Submission]:
        """Place the pieces of put(), and return their pictures and speech to be encoded."""
        assert self.flow is not None
        submissions = []
        while self._pieces:
            placed = self._pieces.popleft()
            if placed is None:
                self._has_ended = True
                submission = self.flow.end(is_last=True)
            else:
                submission = self.flow.place(
                    placed,
                    append_seconds=self.record.append_seconds,
                    recorded_time=recorded_time_of(self.source, placed),
                )
            self._submissions.append(submission)
            submissions.append(submission)
        return submissions

    def resume_decoding(self) -> None:
        """Let the decoding thread put a further piece for each piece that is encoded."""
        while self._submissions and is_encoded(self._submissions[0]):
            self._submissions.popleft()
            self._free.release()

    @property
    def video_id(self) -> str:
        return self.source.video_id if self.flow is None else self.flow.video_id

    @property
    def is_done(self) -> bool:
        """Whether all of its segments are final."""
        return (
            self._has_ended and not self._submissions and self.flow is not None
            and self.flow.is_settled and self.flow.needed is None
        )  # fmt: skip


def is_encoded(submission: Submission) -> bool:
    return submission.step.is_done and all(speech.is_done for speech in submission.speech)


def recorded_time_of(source: Source, placed: EpochPart) -> float | None:
    return None if source.recorded_time is None else source.recorded_time + placed.start_seconds


class FileCutter:
    """Cuts the items that a decoder yields of a file into pieces. Their times are media time already.

    A container may store pictures long before or after the sound of the same time. So a piece says up to which time
    all pictures have come, and an epoch ends once both pictures and sound have passed its end.
    """

    def __init__(self) -> None:
        self._media: MediaInfo | None = None
        self._items: list[Frame | AudioBlock] = []  # of the next piece
        self._later: list[Frame | AudioBlock] = []  # of epochs to come
        self._epoch = -1  # of the last piece; -1: there is none yet
        self._epoch_start = self._end = 0.0
        self._pictures_seconds = 0.0  # media time of the last picture

    def push(self, item: Decoded) -> list[EpochPart]:
        """Take the next item; return the pieces that are complete now."""
        if isinstance(item, MediaInfo):
            self._media = item
            return []
        if isinstance(item, SubtitleTrack):
            return []  # it is not cut
        if isinstance(item, DecodeSummary):
            pieces = []
            while self._later:
                pieces += self._end_epoch()
            self._end = max(self._end, item.duration_seconds)
            # Also without further items: the last picture is shown until the end.
            return pieces + ([self._cut(is_last=True)] if self._items or self._epoch >= 0 else [])
        current = self._items[-1].epoch if self._items else self._epoch
        if current in (-1, item.epoch):
            return self._take(item)
        if item.epoch > current:
            self._later.append(item)
            return self._end_epoch() if self._is_passed() else []
        return []  # it came later than MAX_LATER_ITEMS: the rows of its epoch are complete

    def _is_passed(self) -> bool:
        """Whether all that the file holds has passed the end of the epoch."""
        assert self._media is not None
        has_pictures = any(isinstance(item, Frame) for item in self._later) or self._media.video_codec is None
        has_sound = any(isinstance(item, AudioBlock) for item in self._later) or self._media.audio_codec is None
        return (has_pictures and has_sound) or len(self._later) >= MAX_LATER_ITEMS

    def _end_epoch(self) -> list[EpochPart]:
        """End the epoch, and go on with the next one, as far as its items have come."""
        epoch = min(item.epoch for item in self._later)
        begun = [item for item in self._later if item.epoch == epoch]
        self._later = [item for item in self._later if item.epoch != epoch]
        self._end = max(self._end, start_of(begun))  # an epoch ends where the next begins
        pieces = [self._cut(ends_epoch=True)]
        for item in begun:
            pieces += self._take(item)
        return pieces

    def _take(self, item: Frame | AudioBlock) -> list[EpochPart]:
        self._items.append(item)
        if isinstance(item, Frame):
            self._pictures_seconds = item.pts_seconds
        self._end = max(self._end, item.pts_seconds if isinstance(item, Frame) else item.end_seconds)
        frame_count = sum(isinstance(one, Frame) for one in self._items)
        sound_seconds = sum(one.end_seconds - one.start_seconds for one in self._items if isinstance(one, AudioBlock))
        return [self._cut()] if frame_count >= PIECE_FRAMES or sound_seconds >= PIECE_SECONDS else []

    def _cut(self, *, ends_epoch: bool = False, is_last: bool = False) -> EpochPart:
        assert self._media is not None
        items, self._items = self._items, []
        opens = bool(items) and items[0].epoch != self._epoch
        start = start_of(items) if items else self._end
        if opens:
            self._epoch, self._epoch_start = items[0].epoch, start if items[0].epoch else 0.0
        is_whole = is_last or ends_epoch or self._media.video_codec is None
        return EpochPart(
            media=self._media,
            frames=tuple(item for item in items if isinstance(item, Frame)),
            sounds=tuple(item for item in items if isinstance(item, AudioBlock)),
            epoch=self._epoch,
            epoch_start_seconds=self._epoch_start,
            start_seconds=start,
            end_seconds=self._end,
            whole_seconds=self._end if is_whole else max(self._pictures_seconds, self._end - MAX_FILE_LAG_SECONDS),
            opens_epoch=opens,
        )


def start_of(items: Sequence[Frame | AudioBlock]) -> float:
    return min(item.pts_seconds if isinstance(item, Frame) else item.start_seconds for item in items)
