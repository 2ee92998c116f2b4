"""What one worker does with one Kafka partition: records in, segments out, and offsets that may be committed.

The commit protocol, for each partition by itself:
1. Every segment and dead letter made so far is on its way; take the position before which no chunk is needed any more,
   and the checkpoints of the streams.
2. When the broker has acknowledged all of 1, send the checkpoints.
3. When it has acknowledged those, commit the position.
A crash between any two steps replays chunks. The checkpoints say where each stream goes on, segments have derived ids
and revisions, so what is made twice is the same twice.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ingest.errors import IngestError
from ingest.kafka import MAX_RECORD_BYTES, Delivery, Record
from ingest.stream.chunk_order import MAX_WAITING_SECONDS, Arrival
from ingest.values import Decoded
from kinodex.v1 import stream_pb2
from serve.codec.records import (
    DeadLetter,
    dead_letter_bytes,
    read_chunk,
    read_source,
    segment_bytes,
    video_key,
)
from serve.errors import RecordInvalid, name_of
from serve.worker.stream import Entry, LiveStream, checkpoint_key
from serve.worker.threads import Desk
from serve.worker.video_flow import Submission, VideoFlow
from serve.worker.whole_file import FileWork

logger = logging.getLogger(__name__)

SHED = "SHED"  # the reason of a gap of chunks that were too late to be worth it
MAX_VALUE_BYTES = MAX_RECORD_BYTES - (64 << 10)  # of a record: its key and what Kafka says of it must have room too
SEEN_SECONDS = 3.0  # a worker that dies has taken no chunk so long after its last checkpoint, sent every second
MAX_FILES = 16  # taken and not done: a thousand more wait in Kafka as well as here
MAX_UNACKNOWLEDGED = 64  # segments of files: while the broker is away, no more is decoded


@dataclass(slots=True, eq=False)
class _Commit:
    """A position on its way to being committed."""

    next_offset: int
    checkpoints: list[tuple[bytes, bytes]]
    awaited: list[Delivery]
    has_sent_checkpoints: bool = False


@dataclass(slots=True, eq=False)
class Partition:
    """What both topics' partitions have in common: deliveries and commits."""

    desk: Desk
    topic: str
    number: int
    next_offset: int  # behind the newest record taken
    committed: int  # the position that Kafka has, or is being told
    is_over: bool = False  # given up: what comes back is nobody's
    held_count: int = 0  # chunks that are decoded and wait for another
    _outstanding: list[Delivery] = field(default_factory=list)
    _commit: _Commit | None = None

    def take(self, record: Record) -> None:
        """Take the next record of the partition."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Do nothing more: it is another worker's."""
        self.is_over = True

    @property
    def is_full(self) -> bool:
        """Whether no more records are to be taken for now, for reasons of its own."""
        return False

    def _publish(self, flow: VideoFlow) -> list[bytes]:
        """Publish what is known better than before; return the segments' keys."""
        keys = []
        for record in flow.records():
            data = segment_bytes(record)
            if len(data) > MAX_VALUE_BYTES:  # a picture a hundred times as long as it is high has such a thumbnail
                logger.warning("segment without thumbnails segment=%s bytes=%d", record.segment.segment_id, len(data))
                data = segment_bytes(replace(record, thumbnails=()))
            self._outstanding.append(self.desk.send_segment(record, data))
            keys.append(record.key)
        return keys

    def _refuse(self, record: Record, reason: str, message: str) -> None:
        """Send a record where somebody may look at it."""
        letter = DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            append_time=record.append_seconds,
            key=record.key,
            value=record.value or b"",
            reason=reason,
            message=message,
        )
        logger.warning(
            "dead letter topic=%s partition=%d offset=%d reason=%s message=%s",
            record.topic, record.partition, record.offset, reason, message,
        )  # fmt: skip
        key, data = f"{record.topic}/{record.partition}/{record.offset}".encode(), dead_letter_bytes(letter)
        if len(data) > MAX_VALUE_BYTES:
            data = dead_letter_bytes(replace(letter, value=b"", message=f"{message}; too large to be kept here"))
        self._outstanding.append(self.desk.send_dead_letter(key, data))
        self.desk.count(reason)

    # ---- commits

    def step_commit(self, *, may_begin: bool) -> int | None:
        """Bring a commit as far as the broker's answers allow, begin one if none is under way.

        Returns:
            The offset to commit now; None: there is nothing to commit yet.
        """
        self._outstanding = [one for one in self._outstanding if not is_acknowledged(one)]
        commit = self._commit
        if commit is None:
            if may_begin:
                self._begin_commit()
            return None
        commit.awaited = [one for one in commit.awaited if not is_acknowledged(one)]
        if commit.awaited:
            return None
        if not commit.has_sent_checkpoints:
            commit.has_sent_checkpoints = True
            commit.awaited = [self.desk.send_checkpoint(self.number, key, data) for key, data in commit.checkpoints]
            if commit.awaited:
                return None
        self._commit = None
        self._forget_ended()
        if commit.next_offset == self.committed:
            return None
        self.committed = commit.next_offset
        return self.committed

    @property
    def is_committing(self) -> bool:
        return self._commit is not None

    def _begin_commit(self) -> None:
        position, checkpoints = self._safe_position()
        if position == self.committed and not checkpoints:
            return
        self._commit = _Commit(position, checkpoints, list(self._outstanding))

    def _safe_position(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Return the offset before which nothing is needed, and the checkpoints that are new: keys and values."""
        raise NotImplementedError

    def _forget_ended(self) -> None:
        """Let go of what the broker knows enough of now."""


class ChunkPartition(Partition):
    """A partition of kinodex.chunks: many streams, each in an order of its own."""

    def __init__(
        self,
        desk: Desk,
        topic: str,
        number: int,
        next_offset: int,
        known: Mapping[bytes, stream_pb2.Checkpoint],
        known_seconds: float = 0.0,
    ) -> None:
        """Go on where the checkpoints say.

        Args:
            known_seconds: When the newest of them was appended. What came before was perhaps taken already.
        """
        super().__init__(desk, topic, number, next_offset, committed=next_offset)
        # Checkpoints of streams that nothing comes of, for good perhaps: they must know their old chunks again.
        self._known = {key: checkpoint.SerializeToString() for key, checkpoint in known.items()}
        self._known_seconds = known_seconds
        self._sent: dict[bytes, bytes] = {}  # the newest checkpoint of each stream
        self.streams: dict[bytes, LiveStream] = {}  # those that are going on
        for key, checkpoint in known.items():
            if not checkpoint.ended:
                self._open(key, checkpoint.collection, checkpoint.stream_id)

    @property
    def resume_offset(self) -> int | None:
        """The first record that a stream which goes on needs, of a partition just begun; None: none does."""
        return min((one.next_offset for one in self.streams.values()), default=None)

    def take(self, record: Record) -> None:
        self.next_offset = max(self.next_offset, record.offset + 1)
        try:
            chunk = read_chunk(record.value or b"")
            if record.key != (key := video_key(chunk.collection, chunk.stream_id)):
                # The key decides the partition: a stream must not be in two, of two workers.
                raise RecordInvalid(f"not a chunk: its key is not {key.decode()}")
        except RecordInvalid as error:
            self._refuse(record, name_of(error), str(error))
            return
        key = checkpoint_key(self.topic, chunk.collection, chunk.stream_id)
        stream = self.streams.get(key) or self._open(key, chunk.collection, chunk.stream_id)
        entry = Entry(chunk=chunk, record=record)
        if self._is_late(record) and not chunk.end_of_stream:
            entry.failure = SHED
        arrival = stream.push(entry)
        if arrival is Arrival.TAKEN:
            stream.taken_at = self.desk.monotonic()
        self.desk.count("shed" if arrival is Arrival.TAKEN and entry.failure else arrival.value)
        self._decode(stream)

    def _is_late(self, record: Record) -> bool:
        """Whether a chunk is to be left out. None that was taken before: its segment is published, and would not be
        revised by one that holds less."""
        late_seconds = self.desk.append_seconds_now() - record.append_seconds
        is_new = record.append_seconds > self._known_seconds + SEEN_SECONDS
        return is_new and 0 < self.desk.shed_seconds < late_seconds

    def _open(self, key: bytes, collection: str, stream_id: str) -> LiveStream:
        known = self._known.pop(key, None)
        stream = self.streams[key] = LiveStream(
            collection,
            stream_id,
            transcriber=self.desk.transcriber,
            window=self.desk.window,
            pooling=self.desk.encoders.pooling,
            sampling=self.desk.sampling,
            fingerprint=self.desk.fingerprint,
            checkpoint=stream_pb2.Checkpoint.FromString(known) if known is not None else None,
        )
        stream.taken_at = stream.decoded_at = self.desk.monotonic()
        return stream

    def _decode(self, stream: LiveStream) -> None:
        for entry in stream.ordered():
            if not entry.is_ready:
                self.desk.decode(entry, lambda found, entry=entry: self._decoded(stream, entry, found))  # type: ignore[misc]
        self._place(stream)

    def _decoded(self, stream: LiveStream, entry: Entry, found: list[Decoded] | IngestError) -> None:
        if self.is_over:
            return
        held_count = stream.held_count
        if isinstance(found, IngestError):
            entry.failure = name_of(found)
            self._refuse(entry.record, entry.failure, f"{found.reason} (chunk {entry.chunk.sequence})")
        else:
            entry.items, stream.decoded_at = found, self.desk.monotonic()
        self._place(stream)
        self.held_count += stream.held_count - held_count

    def _place(self, stream: LiveStream) -> None:
        for submission in stream.place_ready():
            self._submit(stream, submission)
        self._publish(stream.flow)

    def _submit(self, stream: LiveStream, submission: Submission) -> None:
        def changed() -> None:
            if not self.is_over:
                self._publish(stream.flow)

        if submission.step.frames:
            self.desk.encode(submission.step, changed, is_live=True)
        if submission.speech:
            self.desk.transcribe(stream.flow, submission.speech, changed, is_live=True)

    def close_idle(self, read_since: float) -> None:
        """End what has been silent for long. Only for a partition that is read to its end.

        Args:
            read_since: When it last could not be read, by the worker's clock: before, there was no silence to hear.
        """
        now = self.desk.monotonic()
        for stream in self.streams.values():
            is_late = now - max(stream.taken_at, read_since) > MAX_WAITING_SECONDS
            is_idle = now - max(stream.decoded_at, read_since) > self.desk.idle_seconds
            if is_late and stream.order.waiting_since is not None:
                stream.order.give_up()
                self._decode(stream)
            elif is_idle and (submission := stream.close()) is not None:
                logger.info("stream idle stream=%s/%s", stream.collection, stream.stream_id)
                self._submit(stream, submission)
                self._publish(stream.flow)

    def _safe_position(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        position, checkpoints = self.next_offset, []
        for key, stream in self.streams.items():
            checkpoint = stream.checkpoint(self.topic)
            if not stream.is_over:
                position = min(position, checkpoint.record_offset)
            data = checkpoint.SerializeToString(deterministic=True)
            if self._sent.get(key) != data:
                self._sent[key] = data
                checkpoints.append((key, data))
        return position, checkpoints

    def _forget_ended(self) -> None:
        for key, stream in list(self.streams.items()):
            if not stream.is_over:
                continue
            data = stream.checkpoint(self.topic).SerializeToString(deterministic=True)
            if self._sent.get(key) == data:  # enough to take it up again
                self._known[key] = self._sent.pop(key)
                del self.streams[key]


class SourcePartition(Partition):
    """A partition of kinodex.sources: whole files, one after the other."""

    def __init__(self, desk: Desk, topic: str, number: int, next_offset: int) -> None:
        super().__init__(desk, topic, number, next_offset, committed=next_offset)
        self.works: dict[int, FileWork] = {}  # by offset, that are not done

    def take(self, record: Record) -> None:
        self.next_offset = max(self.next_offset, record.offset + 1)
        try:
            source = read_source(record.value or b"")
        except RecordInvalid as error:
            self._refuse(record, name_of(error), str(error))
            return
        work = self.works[record.offset] = FileWork(source, record)
        self.desk.decode_file(work, lambda: self._changed(work))
        self.desk.count(Arrival.TAKEN.value)

    def give_up(self) -> None:
        super().give_up()
        for work in self.works.values():
            work.is_cancelled = True

    @property
    def is_full(self) -> bool:
        return len(self.works) >= MAX_FILES

    def step_commit(self, *, may_begin: bool) -> int | None:
        position = super().step_commit(may_begin=may_begin)
        self._go_on()
        return position

    def _changed(self, work: FileWork) -> None:
        if self.is_over or work.record.offset not in self.works:  # given up, or failed meanwhile
            return
        if work.failure is not None:
            self._fail(work, work.failure)
            return
        if work.flow is None:
            return
        for submission in work.take_submissions():
            if submission.step.frames:
                self.desk.encode(submission.step, lambda: self._changed(work), is_live=False)
            if submission.speech:
                self.desk.transcribe(work.flow, submission.speech, lambda: self._changed(work), is_live=False)
        work.published.update(self._publish(work.flow))
        self._go_on()

    def _fail(self, work: FileWork, failure: IngestError) -> None:
        """Leave nothing of a file that breaks off half-way."""
        del self.works[work.record.offset]
        if work.flow is not None:
            self._outstanding += [self.desk.send_tombstone(work.flow, key) for key in sorted(work.published)]
        self._refuse(work.record, name_of(failure), failure.reason)

    def _go_on(self) -> None:
        """Have more decoded, if the broker keeps up."""
        if len(self._outstanding) >= MAX_UNACKNOWLEDGED:
            return
        for offset, work in list(self.works.items()):
            work.let_go_on()
            if work.is_done:
                del self.works[offset]
                logger.info("file done uri=%s video=%s/%s", work.name, work.source.collection, work.video_id)

    def _safe_position(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        return min(self.works, default=self.next_offset), []


def is_acknowledged(delivery: Delivery) -> bool:
    """Whether the broker has a record for good.

    Raises:
        BrokerUnavailable: If it will never have it.
    """
    if delivery.error is not None:
        raise delivery.error
    return delivery.is_done
