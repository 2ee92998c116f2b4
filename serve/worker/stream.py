"""LiveStream: one live stream in a worker, from received chunks to published segments.

Between two chunks the whole state is a Boundary and what VideoFlow still needs. A checkpoint is the latest boundary
after which the chunks hold everything that is not final yet. Reading them again yields the same segments.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from google.protobuf.message import DecodeError

from encoders.speech.whisper import Transcriber
from ingest.config import SamplingPolicy
from ingest.errors import IngestError
from ingest.kafka import Record
from ingest.stream.chunk_order import MAX_WAITING_SECONDS, Arrival, ChunkOrder, MissingChunks, Session
from ingest.stream.stream_clock import NO_TICK, ClockState, StreamClock
from ingest.values import Decoded
from kinodex.v1 import stream_pb2
from serve.codec.fields import timestamp_message, timestamp_value
from serve.codec.records import Gap, gap_message, gap_value, media_message, media_value, video_key
from serve.errors import name_of
from serve.worker.effects import Effects, ReceivedChunk
from serve.worker.outbox import Outbox
from serve.worker.picture_text import PictureText
from serve.worker.video_flow import NotedGap, Submission, VideoFlow
from temporal.config import WindowConfig
from temporal.values import Pooling

logger = logging.getLogger(__name__)

MISSING = "MISSING"  # reason of a gap: the chunks never came
SESSION_STALE = "SESSION_STALE"  # reason of a dead letter: the chunk is of an earlier session than the stream's


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """Settings and models that all streams of a worker share."""

    transcriber: Transcriber | None
    window: WindowConfig
    pooling: Pooling
    sampling: SamplingPolicy
    fingerprint: str  # of the encoders
    open_text: Callable[[], PictureText] | None  # None: text in pictures is not read
    idle_seconds: float  # a stream without a decoded chunk for this long is ended
    shed_seconds: float  # chunks this old are left out; 0: none
    max_session_lead_seconds: float  # by which a session may lie ahead of the append of its chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The state of a stream before a chunk: a place where another worker can continue."""

    session: Session
    sequence: int
    clock: ClockState


class LiveStream:
    """Orders, decodes, encodes and publishes the chunks of one stream. Called by the worker's thread only."""

    def __init__(
        self,
        collection: str,
        stream_id: str,
        *,
        config: StreamConfig,
        effects: Effects,
        outbox: Outbox,
        checkpoint: stream_pb2.Checkpoint | None = None,
    ) -> None:
        """Begin a stream, or continue it from a checkpoint."""
        self.collection, self.stream_id = collection, stream_id
        self._effects, self._outbox, self._idle_seconds = effects, outbox, config.idle_seconds
        checkpoint = checkpoint or stream_pb2.Checkpoint(session=-1, epoch=-1, last_tick=NO_TICK, last_pts_seconds=-1.0)
        session = Session(checkpoint.session_reset_offset, checkpoint.session)
        self._reset_offset = checkpoint.reset_offset  # of the newest record that made sessions begin anew
        self._order: ChunkOrder[ReceivedChunk] = ChunkOrder(session=session, next_sequence=checkpoint.next_sequence)
        self._clock = StreamClock(config.sampling, clock_of(checkpoint))
        self.flow = VideoFlow(
            collection,
            stream_id,
            transcriber=config.transcriber,
            window=config.window,
            pooling=config.pooling,
            fingerprint=config.fingerprint,
            text=None if config.open_text is None else config.open_text(),
            first=(checkpoint.segment_epoch, checkpoint.segment_index),
            heard_from=(checkpoint.speech_epoch, checkpoint.speech_start_sample),
            language=checkpoint.language or None,
            media=media_value(checkpoint.media) if checkpoint.HasField("media") else None,
        )
        if checkpoint.HasField("clock_time"):
            self.flow.anchors.append(
                (checkpoint.epoch, checkpoint.clock_seconds, timestamp_value(checkpoint.clock_time))
            )
        self.flow.gaps = [
            NotedGap(epoch_after(self._clock.state), (session, gap.first_sequence), gap_value(gap))
            for gap in checkpoint.gaps
        ]
        # Whether something was placed since the last end: a session that brings nothing does not end the epoch before.
        self._is_open = not checkpoint.ended and checkpoint.epoch >= 0
        self._session = session  # of the last chunk that was placed
        self._next_sequence = checkpoint.next_sequence  # of the next chunk to be placed
        self.next_offset = checkpoint.record_offset  # after the newest record taken
        self._resume_offset = checkpoint.record_offset  # earlier records were taken before, by this worker or another
        self.held_count = 0  # decoded chunks that wait for an earlier chunk
        self._taken_at = self._decoded_at = effects.monotonic_seconds()  # of the last chunk taken, and decoded
        self._queue: deque[ReceivedChunk | MissingChunks] = deque()  # in order, not placed yet
        self._offsets: dict[
            tuple[Session, int], int
        ] = {}  # (session, sequence) -> offset of chunks that are still needed
        self._boundaries: list[Boundary] = []

    # ---- chunks

    def push(self, received: ReceivedChunk) -> Arrival:
        """Take a chunk as it arrives, and decode the chunks whose order is certain now."""
        record, chunk = received.record, received.chunk
        if record.offset < self._resume_offset:
            return Arrival.DUPLICATE
        self.next_offset = max(self.next_offset, record.offset + 1)
        current = self._order.session  # goes on after a reset, until another session comes
        received.reset_offset = current.reset_offset if chunk.session == current.number else self._reset_offset
        arrival = self._order.push(
            received, session=received.session, sequence=chunk.sequence, append_seconds=record.append_seconds
        )
        if arrival is Arrival.TAKEN:
            self._taken_at = self._effects.monotonic_seconds()
            self._offsets[received.place] = record.offset
        elif arrival is Arrival.STALE:
            message = (
                f"chunk {chunk.sequence} of session {chunk.session}, after session {self._order.session.number} of"
                f" {self.collection}/{self.stream_id}: another publisher sends this stream, or its clock went back"
            )
            self._outbox.refuse(record, SESSION_STALE, message)
        self._decode_ordered()
        return arrival

    def reset_sessions(self, offset: int) -> None:
        """Let any session follow on the present one from an offset on. May be called again with the same record."""
        self.next_offset = max(self.next_offset, offset + 1)
        self._reset_offset = max(self._reset_offset, offset)

    def close_idle(self, read_since: float) -> None:
        """Stop waiting for missing chunks, or end the epoch, if the stream has been silent for too long.

        Silence before `read_since` proves nothing: its partition was unreadable then, by the monotonic clock.
        """
        now = self._effects.monotonic_seconds()
        if self._order.waiting_since is not None and now - max(self._taken_at, read_since) > MAX_WAITING_SECONDS:
            self._order.give_up()
            self._decode_ordered()
        elif now - max(self._decoded_at, read_since) > self._idle_seconds and self.end_epoch():
            logger.info("stream idle stream=%s/%s", self.collection, self.stream_id)

    def end_epoch(self) -> bool:
        """End the open epoch unless chunks are on their way through it; return whether an epoch was ended."""
        if not self._is_open or not self._is_idle:
            return False
        self._encode(self._end())
        self._publish()
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether no chunk is on its way: none waits for a missing chunk, for its decoding or for its place."""
        return not self._queue and self._order.waiting_since is None

    def _decode_ordered(self) -> None:
        while (item := self._order.next()) is not None:
            self._queue.append(item)
            if isinstance(item, ReceivedChunk) and not item.is_ready:
                self._effects.decode(item, partial(self._take_decoded, item))
        self._place_ready()

    def _take_decoded(self, received: ReceivedChunk, result: list[Decoded] | IngestError) -> None:
        if self._outbox.is_closed:
            return
        if isinstance(result, IngestError):
            received.failure = name_of(result)
            message = f"{result.reason} (chunk {received.chunk.sequence})"
            self._outbox.refuse(received.record, received.failure, message, uri=received.chunk.uri)
        else:
            received.items, self._decoded_at = result, self._effects.monotonic_seconds()
            self.held_count += 1
        self._place_ready()

    def _place_ready(self) -> None:
        """Place decoded chunks as far as they are next in order, encode their media, and publish their segments."""
        while self._queue:
            item = self._queue[0]
            if isinstance(item, ReceivedChunk) and not item.is_ready:
                break
            self._queue.popleft()
            if isinstance(item, MissingChunks):
                self._enter_session(item.session)
                self._note_gap(item.first_sequence, item.chunk_count, MISSING)
                self._next_sequence = item.first_sequence + item.chunk_count
            else:
                self.held_count -= item.items is not None
                for submission in self._place(item):
                    self._encode(submission)
        self._publish()

    def _encode(self, submission: Submission) -> None:
        if submission.step.frames:
            self._effects.encode(submission.step, self._publish, is_live=True)
        if submission.step.is_reading:
            self._effects.read_text(self.flow, submission.step, self._publish, is_live=True)
        if submission.speech:
            self._effects.transcribe(self.flow, submission.speech, self._publish, is_live=True)

    def _publish(self) -> None:
        if not self._outbox.is_closed:
            self._outbox.publish(self.flow.records())

    def _place(self, received: ReceivedChunk) -> list[Submission]:
        chunk = received.chunk
        self._enter_session(received.session)
        self._boundaries.append(Boundary(session=received.session, sequence=chunk.sequence, clock=self._clock.state))
        self._next_sequence = chunk.sequence + 1
        submissions = []
        if received.failure:
            self._note_gap(chunk.sequence, 1, received.failure)
        recorded_time = chunk.start_time
        append_seconds = received.record.append_seconds
        for placed in self._clock.place(received.items) if received.items else ():
            submissions.append(self.flow.place(placed, append_seconds=append_seconds, recorded_time=recorded_time))
            recorded_time = None  # start_time is that of the first picture; a later epoch of the chunk has none
            self._is_open = True
        if chunk.end_of_stream and self._is_open:
            submissions.append(self._end())
        return submissions

    def _end(self) -> Submission:
        self._is_open = False
        self._clock.close()
        return self.flow.end(is_last=True)

    def _enter_session(self, session: Session) -> None:
        if session != self._session:
            self._session, self._next_sequence = session, 0
            self._clock.close()

    def _note_gap(self, first_sequence: int, chunk_count: int, reason: str) -> None:
        at = self._clock.state.end_seconds
        gap = Gap(at_seconds=at, first_sequence=first_sequence, chunk_count=chunk_count, reason=reason)
        self.flow.note_gap(gap, epoch=epoch_after(self._clock.state), session=self._session)

    # ---- checkpoints

    @property
    def is_over(self) -> bool:
        """Whether nothing is open: all segments are final, and the next chunk begins a new epoch."""
        state = self._clock.state
        is_closed = state.is_closed or state.epoch < 0
        return is_closed and self._is_idle and self.flow.is_settled and self.flow.needed is None

    def checkpoint(self, topic: str, topic_id: str = "") -> stream_pb2.Checkpoint:
        """Return where another worker continues, once everything sent so far is acknowledged."""
        boundary = self._resume_boundary()
        self._forget_before(boundary)
        clock = boundary.clock
        epoch, index, _ = self.flow.cutter.open_segment
        speech_epoch, speech_start_sample = self.flow.speech_start()
        offset = self.next_offset if self.is_over else min(self._offsets.values(), default=self.next_offset)
        message = stream_pb2.Checkpoint(
            topic=topic,
            topic_id=topic_id,
            collection=self.collection,
            stream_id=self.stream_id,
            record_offset=offset,
            session=boundary.session.number,
            session_reset_offset=boundary.session.reset_offset,
            # A reset that lies behind the offset is read again.
            reset_offset=self._reset_offset if self._reset_offset < offset else boundary.session.reset_offset,
            next_sequence=boundary.sequence,
            placed_sequence=self._placed_sequence(boundary),
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
            speech_epoch=speech_epoch,
            speech_start_sample=speech_start_sample,
            language=self.flow.language or "",
            gaps=[
                gap_message(clip_gap(noted, boundary))
                for noted in self.flow.gaps
                if noted.place < (boundary.session, boundary.sequence)
            ],
        )
        if self.flow.media is not None:
            message.media.CopyFrom(media_message(self.flow.media))
        for anchor_epoch, media_seconds, wall_seconds in reversed(self.flow.anchors):
            if anchor_epoch == clock.epoch and media_seconds <= clock.end_seconds:
                message.clock_seconds = media_seconds
                message.clock_time.CopyFrom(timestamp_message(wall_seconds) or message.clock_time)
                break
        return message

    def _placed_sequence(self, boundary: Boundary) -> int:
        """Return the sequence after the last chunk of the boundary's session that is known to be placed."""
        if boundary.session == self._session:
            return self._next_sequence
        return boundary.sequence + (boundary.session < self._session)

    def _resume_boundary(self) -> Boundary:
        """Return the latest boundary before which nothing is needed any more."""
        now = Boundary(session=self._session, sequence=self._next_sequence, clock=self._clock.state)
        if self.is_over:
            return now
        needed_picture, needed_sound = self.flow.needed, self.flow.speech_start()
        latest = self._boundaries[0] if self._boundaries else now
        for boundary in self._boundaries:
            clock = boundary.clock
            if needed_picture is not None and needed_picture <= (clock.epoch, clock.last_pts_seconds):
                break
            if needed_sound < (clock.epoch, clock.audio_end_sample):
                break
            latest = boundary
        return latest

    def _forget_before(self, boundary: Boundary) -> None:
        place = boundary.session, boundary.sequence
        self._boundaries = [other for other in self._boundaries if (other.session, other.sequence) >= place]
        self._offsets = {chunk: offset for chunk, offset in self._offsets.items() if chunk >= place}


def epoch_after(state: ClockState) -> int:
    """Return the epoch of the next chunk, unless its times jump."""
    return state.epoch + (state.is_closed or state.epoch < 0)


def clip_gap(noted: NotedGap, boundary: Boundary) -> Gap:
    """Return the part of a gap that lies before a boundary."""
    if noted.place[0] != boundary.session:
        return noted.gap
    return replace(noted.gap, chunk_count=min(noted.gap.chunk_count, boundary.sequence - noted.place[1]))


def clock_of(checkpoint: stream_pb2.Checkpoint) -> ClockState:
    """Return the state of the stream clock at a checkpoint."""
    return ClockState(
        epoch=checkpoint.epoch,
        epoch_start_seconds=checkpoint.epoch_start_seconds,
        epoch_source_seconds=checkpoint.epoch_source_seconds,
        end_seconds=checkpoint.end_seconds,
        source_end_seconds=checkpoint.epoch_source_seconds + (checkpoint.end_seconds - checkpoint.epoch_start_seconds),
        last_tick=checkpoint.last_tick,
        last_pts_seconds=checkpoint.last_pts_seconds,
        audio_end_sample=checkpoint.audio_end_sample,
        is_closed=checkpoint.ended,
    )


def resume_place(checkpoint: stream_pb2.Checkpoint) -> tuple[Session, int]:
    """Return the place of the chunk that a checkpoint stands before."""
    return Session(checkpoint.session_reset_offset, checkpoint.session), checkpoint.next_sequence


def checkpoint_key(topic: str, collection: str, stream_id: str) -> bytes:
    return b"/".join((topic.encode(), video_key(collection, stream_id)))


def latest_checkpoints(records: Iterable[Record], topic: str) -> tuple[dict[bytes, stream_pb2.Checkpoint], float]:
    """Return the furthest checkpoint of each stream of a topic, and the append time of the newest (seconds since 1970).

    The furthest, not the newest: a worker that has lost its partition may still send an older checkpoint later.
    """
    furthest: dict[bytes, stream_pb2.Checkpoint] = {}
    append_seconds = 0.0
    for record in records:
        if not record.value:
            furthest.pop(record.key, None)
            continue
        message = stream_pb2.Checkpoint()
        try:
            if record.unreadable:
                raise DecodeError(record.unreadable)
            message.ParseFromString(record.value)
        except DecodeError as error:  # the stream continues from the checkpoint before, or from the committed offset
            logger.warning(
                "checkpoint skipped topic=%s partition=%d offset=%d reason=%s",
                record.topic, record.partition, record.offset, error,
            )  # fmt: skip
            continue
        if message.topic != topic:
            continue
        append_seconds = max(append_seconds, record.append_seconds)
        before = furthest.get(record.key)
        is_of_other_topic = before is not None and before.topic_id != message.topic_id  # made anew: offsets began again
        if before is None or is_of_other_topic or resume_place(before) <= resume_place(message):
            furthest[record.key] = message
    return furthest, append_seconds
