"""The Effects protocol: everything that partitions and streams need from other threads, the broker and the clocks.

serve.worker.threads implements it for a worker; tests implement it without threads, broker or clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ingest.errors import IngestError
from ingest.kafka import Delivery, Record
from ingest.stream.chunk_order import Session
from ingest.values import Chunk, Decoded
from serve.codec.records import SegmentRecord
from serve.worker.video_flow import Step, TrackedSpeech, VideoFlow
from serve.worker.whole_file import FileWork


@dataclass(slots=True, kw_only=True, eq=False)
class ReceivedChunk:
    """A chunk of a stream, from its arrival until it is placed in the stream's media time."""

    chunk: Chunk
    record: Record  # as received, for a dead letter
    reset_offset: int = 0  # see Session; the stream sets it
    items: Sequence[Decoded] | None = None  # what decoding yielded; None: not decoded yet, or not at all
    failure: str = ""  # why the chunk is left out, UPPER_SNAKE

    @property
    def is_ready(self) -> bool:
        """Whether the chunk can be placed: it is decoded, left out, or has no media."""
        return self.items is not None or bool(self.failure) or not (self.chunk.media or self.chunk.uri)

    @property
    def session(self) -> Session:
        """The run of the publisher that the chunk belongs to."""
        return Session(self.reset_offset, self.chunk.session)

    @property
    def place(self) -> tuple[Session, int]:
        """Session and sequence: the chunk's place in its stream."""
        return self.session, self.chunk.sequence


class Effects(Protocol):
    """Work that leaves the worker's thread.

    No method waits for its result. The worker's thread calls every method and, later, every callback, so the state of
    streams belongs to that thread alone. `is_live` marks work for streams, which the worker counts to hold back polls.
    """

    def decode(self, received: ReceivedChunk, on_done: Callable[[list[Decoded] | IngestError], None]) -> None:
        """Decode a chunk; pass the callback its items, or the error that prevents it."""

    def decode_file(self, work: FileWork, on_change: Callable[[], None]) -> None:
        """Decode a whole file; call back after each piece, at the end and after a failure."""

    def encode(self, step: Step, on_done: Callable[[], None], *, is_live: bool) -> None:
        """Encode the pictures of a step into step.vectors."""

    def read_text(self, flow: VideoFlow, step: Step, on_done: Callable[[], None], *, is_live: bool) -> None:
        """Read the text in the pictures of a step into step.lines, after those of the flow's earlier steps."""

    def transcribe(
        self, flow: VideoFlow, speech: list[TrackedSpeech], on_done: Callable[[], None], *, is_live: bool
    ) -> None:
        """Transcribe windows of speech and hand their words to the flow."""

    def send_segment(self, record: SegmentRecord, data: bytes) -> Delivery:
        """Publish a segment in the partition of its video."""

    def send_tombstone(self, flow: VideoFlow, key: bytes) -> Delivery:
        """Publish the removal of a segment."""

    def send_chunk(self, partition: int, key: bytes, data: bytes | None) -> Delivery:
        """Append a record of a stream to the partition of chunks where the stream began."""

    def send_dead_letter(self, key: bytes, data: bytes) -> Delivery:
        """Publish a record that cannot be used."""

    def send_checkpoint(self, partition: int, key: bytes, data: bytes) -> Delivery:
        """Publish where another worker continues a stream."""

    def count(self, outcome: str) -> None:
        """Count a record in the metrics by its outcome."""

    def broker_seconds(self) -> float:
        """Return the brokers' time, by which records have append times: seconds since 1970; -inf: not known yet."""

    def monotonic_seconds(self) -> float:
        """Return a clock that never goes back: seconds since an arbitrary moment."""
