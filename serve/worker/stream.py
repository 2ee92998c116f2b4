"""One live stream in a worker: its chunks in order, its media time, and where another worker can go on with it.

Between two chunks the whole state is a Boundary and what VideoFlow tells it still needs. A checkpoint is the latest
boundary from which on the chunks hold everything that is not final yet: reading them again finds the same segments.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from encoders.speech.whisper import Transcriber
from ingest.config import SamplingPolicy
from ingest.kafka import Record
from ingest.stream.chunk_order import Arrival, ChunkOrder, Missing
from ingest.stream.stream_clock import NO_TICK, ClockState, StreamClock
from ingest.values import Chunk, Decoded
from kinodex.v1 import stream_pb2
from serve.codec.fields import timestamp_message, timestamp_value
from serve.codec.records import Gap, gap_message, gap_value, media_message, media_value, video_key
from serve.worker.video_flow import NotedGap, Submission, VideoFlow
from temporal.config import WindowConfig
from temporal.values import Pooling

MISSING = "MISSING"  # the reason of a gap of chunks that never came


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One chunk in its place."""

    chunk: Chunk
    record: Record  # as it came, for the dead letter
    items: Sequence[Decoded] | None = None  # there: it is decoded
    failure: str = ""  # there: why it is left out, UPPER_SNAKE

    @property
    def is_ready(self) -> bool:
        return self.items is not None or bool(self.failure) or not (self.chunk.media or self.chunk.uri)

    @property
    def place(self) -> tuple[int, int]:
        return self.chunk.session, self.chunk.sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The state before a chunk."""

    session: int
    sequence: int
    clock: ClockState


class LiveStream:
    """Takes the chunks of one stream as they arrive. Every method is called by one thread."""

    def __init__(
        self,
        collection: str,
        stream_id: str,
        *,
        transcriber: Transcriber | None,
        window: WindowConfig,
        pooling: Pooling,
        sampling: SamplingPolicy,
        fingerprint: str,
        checkpoint: stream_pb2.Checkpoint | None = None,
    ) -> None:
        """Begin with a stream, or go on with it from a checkpoint."""
        self.collection, self.stream_id = collection, stream_id
        known = checkpoint or stream_pb2.Checkpoint(session=-1, epoch=-1, last_tick=NO_TICK, last_pts_seconds=-1.0)
        self.order: ChunkOrder[Entry] = ChunkOrder(session=known.session, next_sequence=known.next_sequence)
        self.clock = StreamClock(sampling, clock_of(known))
        self.flow = VideoFlow(
            collection,
            stream_id,
            transcriber=transcriber,
            window=window,
            pooling=pooling,
            fingerprint=fingerprint,
            first=(known.segment_epoch, known.segment_index),
            heard_from=(known.speech_epoch, known.speech_start_sample),
            language=known.language or None,
            media=media_value(known.media) if known.HasField("media") else None,
        )
        if known.HasField("clock_time"):
            self.flow.anchors.append((known.epoch, known.clock_seconds, timestamp_value(known.clock_time)))
        self.flow.gaps = [
            NotedGap(epoch_after(self.clock.state), (known.session, gap.first_sequence), gap_value(gap))
            for gap in known.gaps
        ]
        # Whether something was placed since the last end: a new session ends the epoch when it brings something only.
        self._is_open = not known.ended and known.epoch >= 0
        self.session = known.session  # of the last chunk that was placed
        self._next_sequence = known.next_sequence  # of the next one to be placed
        self.next_offset = known.record_offset  # behind the newest record that was taken
        self.taken_at = self.decoded_at = 0.0  # when the last chunk came, and one decoded, by the worker's clock
        self._entries: deque[Entry | Missing] = deque()
        self._offsets: dict[tuple[int, int], int] = {}  # session and sequence -> offset, of what is still needed
        self._boundaries: list[Boundary] = []

    # ---- chunks

    def push(self, entry: Entry) -> Arrival:
        """Take one chunk as it arrives."""
        self.next_offset = max(self.next_offset, entry.record.offset + 1)
        arrival = self.order.push(
            entry,
            session=entry.chunk.session,
            sequence=entry.chunk.sequence,
            append_seconds=entry.record.append_seconds,
        )
        if arrival is Arrival.TAKEN:
            self._offsets[entry.place] = entry.record.offset
        return arrival

    def ordered(self) -> list[Entry]:
        """Return the chunks whose place is certain now, to be decoded; in order."""
        found = []
        while (following := self.order.next()) is not None:
            self._entries.append(following)
            if isinstance(following, Entry):
                found.append(following)
        return found

    def place_ready(self) -> list[Submission]:
        """Place what is decoded, as far as it is next in order; return what is to be encoded of it."""
        found: list[Submission] = []
        while self._entries:
            entry = self._entries[0]
            if isinstance(entry, Entry) and not entry.is_ready:
                break
            self._entries.popleft()
            if isinstance(entry, Missing):
                self._enter_session(entry.session)
                self._note_gap(entry.first_sequence, entry.chunk_count, MISSING)
                self._next_sequence = entry.first_sequence + entry.chunk_count
            else:
                found += self._place(entry)
        return found

    def close(self) -> Submission | None:
        """End the epoch, as nothing came for long; None: there is none, or chunks are on their way through it."""
        is_idle = not self._entries and self.order.waiting_since is None
        return self._end() if is_idle and self._is_open else None

    @property
    def held_count(self) -> int:
        """Chunks that are decoded and wait for one before them that is not."""
        return sum(isinstance(entry, Entry) and entry.items is not None for entry in self._entries)

    def _place(self, entry: Entry) -> list[Submission]:
        chunk = entry.chunk
        self._enter_session(chunk.session)
        self._boundaries.append(Boundary(session=chunk.session, sequence=chunk.sequence, clock=self.clock.state))
        self._next_sequence = chunk.sequence + 1
        found = []
        if entry.failure:
            self._note_gap(chunk.sequence, 1, entry.failure)
        recorded_time = chunk.start_time
        for placed in self.clock.place(entry.items) if entry.items else ():
            found.append(
                self.flow.place(placed, append_seconds=entry.record.append_seconds, recorded_time=recorded_time)
            )
            recorded_time = None  # of its first picture, which a later epoch in the chunk has not
            self._is_open = True
        if chunk.end_of_stream and self._is_open:
            found.append(self._end())
        return found

    def _end(self) -> Submission:
        self._is_open = False
        self.clock.close()
        return self.flow.end(is_last=True)

    def _enter_session(self, session: int) -> None:
        if session != self.session:
            self.session, self._next_sequence = session, 0
            self.clock.close()

    def _note_gap(self, first_sequence: int, chunk_count: int, reason: str) -> None:
        at = self.clock.state.end_seconds
        gap = Gap(at_seconds=at, first_sequence=first_sequence, chunk_count=chunk_count, reason=reason)
        self.flow.note_gap(gap, epoch=epoch_after(self.clock.state), session=self.session)

    # ---- checkpoints

    @property
    def is_over(self) -> bool:
        """Whether nothing is open: all that came is final, and what comes next begins a new epoch."""
        state = self.clock.state
        is_closed = state.is_closed or state.epoch < 0
        is_idle = not self._entries and self.order.waiting_since is None
        return is_closed and is_idle and self.flow.is_settled and self.flow.needed is None

    def checkpoint(self, topic: str) -> stream_pb2.Checkpoint:
        """Return where another worker goes on, given that all records up to now are published."""
        boundary = self._needed_boundary()
        self._forget_before(boundary)
        clock = boundary.clock
        epoch, index, _ = self.flow.windows.open_segment
        heard_epoch, heard_sample = self.flow.speech_start()
        message = stream_pb2.Checkpoint(
            topic=topic,
            collection=self.collection,
            stream_id=self.stream_id,
            record_offset=self.next_offset if self.is_over else min(self._offsets.values(), default=self.next_offset),
            session=boundary.session,
            next_sequence=boundary.sequence,
            ended=clock.is_closed,
            epoch=clock.epoch,
            epoch_start_seconds=clock.epoch_start_seconds,
            epoch_source_seconds=clock.epoch_source_seconds,
            end_seconds=clock.end_seconds,
            last_tick=clock.last_tick,
            last_pts_seconds=clock.last_pts_seconds,
            audio_end_sample=clock.audio_end_sample,
            segment_epoch=epoch,
            segment_index=index,
            speech_epoch=heard_epoch,
            speech_start_sample=heard_sample,
            language=self.flow.language or "",
            gaps=[
                gap_message(noted_before(noted, boundary))
                for noted in self.flow.gaps
                if noted.place < (boundary.session, boundary.sequence)
            ],
        )
        if self.flow.media is not None:
            message.media.CopyFrom(media_message(self.flow.media))
        anchor = next((one for one in reversed(self.flow.anchors) if one[0] == clock.epoch
                       and one[1] <= clock.end_seconds), None)  # fmt: skip
        if anchor is not None:
            message.clock_seconds = anchor[1]
            message.clock_time.CopyFrom(timestamp_message(anchor[2]) or message.clock_time)
        return message

    def _needed_boundary(self) -> Boundary:
        """Return the latest boundary behind which nothing is needed any more."""
        now = Boundary(session=self.session, sequence=self._next_sequence, clock=self.clock.state)
        if self.is_over:
            return now
        shown, heard = self.flow.needed, self.flow.speech_start()
        found = self._boundaries[0] if self._boundaries else now
        for boundary in self._boundaries:
            clock = boundary.clock
            is_seen = shown is None or shown > (clock.epoch, clock.last_pts_seconds)
            if not is_seen or heard < (clock.epoch, clock.audio_end_sample):
                break
            found = boundary
        return found

    def _forget_before(self, boundary: Boundary) -> None:
        place = boundary.session, boundary.sequence
        self._boundaries = [one for one in self._boundaries if (one.session, one.sequence) >= place]
        self._offsets = {one: offset for one, offset in self._offsets.items() if one >= place}


def epoch_after(state: ClockState) -> int:
    """Return the epoch of what comes next, unless it brings a jump of the times."""
    return state.epoch + (state.is_closed or state.epoch < 0)


def noted_before(noted: NotedGap, boundary: Boundary) -> Gap:
    """Return as much of a gap as the chunks before a boundary tell of."""
    if noted.place[0] != boundary.session:
        return noted.gap
    return replace(noted.gap, chunk_count=min(noted.gap.chunk_count, boundary.sequence - noted.place[1]))


def clock_of(known: stream_pb2.Checkpoint) -> ClockState:
    """Return what a clock knew at a checkpoint."""
    return ClockState(
        epoch=known.epoch,
        epoch_start_seconds=known.epoch_start_seconds,
        epoch_source_seconds=known.epoch_source_seconds,
        end_seconds=known.end_seconds,
        source_end_seconds=known.epoch_source_seconds + (known.end_seconds - known.epoch_start_seconds),
        last_tick=known.last_tick,
        last_pts_seconds=known.last_pts_seconds,
        audio_end_sample=known.audio_end_sample,
        is_closed=known.ended,
    )


def checkpoint_key(topic: str, collection: str, stream_id: str) -> bytes:
    """Return the key of a stream's checkpoints."""
    return b"/".join((topic.encode(), video_key(collection, stream_id)))


def latest_checkpoints(records: Iterable[Record], topic: str) -> tuple[dict[bytes, stream_pb2.Checkpoint], float]:
    """Return the furthest checkpoint of each stream of a topic, and when the newest was appended.

    The furthest, not the newest: a worker that had lost its partition may have sent an older one after it.
    """
    found: dict[bytes, stream_pb2.Checkpoint] = {}
    append_seconds = 0.0
    for record in records:
        if not record.value:
            found.pop(record.key, None)
            continue
        message = stream_pb2.Checkpoint()
        message.ParseFromString(record.value)
        if message.topic != topic:
            continue
        append_seconds = max(append_seconds, record.append_seconds)
        before = found.get(record.key)
        if before is None or (before.session, before.next_sequence) <= (message.session, message.next_sequence):
            found[record.key] = message
    return found, append_seconds
