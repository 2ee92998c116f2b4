"""ChunkPartition and SourcePartition: one Kafka partition in a worker, its dead letters and its commits.

The commit protocol, for each partition by itself:
1. Every segment and dead letter made so far is sent. Take the position before which no chunk is needed any more, and
   the checkpoints of the streams.
2. When the broker has acknowledged all of 1, send the checkpoints.
3. When it has acknowledged those, commit the position.
A crash between any two steps replays chunks. The checkpoints say where each stream continues; segments have derived ids
and revisions, so a replay makes the same segments again.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ingest.errors import IngestError
from ingest.kafka import Delivery, Record
from ingest.stream.chunk_order import Arrival
from kinodex.v1 import stream_pb2
from serve.codec.records import read_chunk, read_source, video_key
from serve.errors import RecordInvalid, name_of
from serve.worker.effects import Effects, ReceivedChunk
from serve.worker.outbox import Outbox, is_acknowledged
from serve.worker.stream import LiveStream, StreamConfig, checkpoint_key
from serve.worker.whole_file import FileWork

logger = logging.getLogger(__name__)

SESSION_AHEAD = "SESSION_AHEAD"  # reason of a dead letter: the chunk's session lies too far in the future
MILLISECONDS = 1000  # in a second: sessions are numbered like times in milliseconds
SHED = "SHED"  # reason of a gap: the chunks came too late to be worth the work
# Checkpoints are sent every second, so a worker that died has taken no chunk appended this long after its last one.
CHECKPOINT_AGE_SECONDS = 3.0
MAX_FILES = 16  # taken and not done: a thousand more wait in Kafka as well as here
MAX_UNACKNOWLEDGED = 64  # segments of files: while the broker is away, no more is decoded


@dataclass(slots=True, eq=False)
class _Commit:
    """A commit under way: what the broker must acknowledge before its position is committed."""

    next_offset: int
    checkpoints: list[tuple[bytes, bytes]]
    awaited: list[Delivery]
    has_sent_checkpoints: bool = False


class Partition(ABC):
    """Offsets and commits, the same for both topics."""

    def __init__(self, effects: Effects, topic: str, number: int, next_offset: int) -> None:
        self.topic, self.number = topic, number
        self.next_offset = next_offset  # after the newest record taken
        self.committed = next_offset  # the position that Kafka has, or that is being committed
        self._effects, self._outbox = effects, Outbox(effects)
        self._commit: _Commit | None = None

    def take(self, record: Record) -> None:
        """Take the next record of the partition."""
        self.next_offset = max(self.next_offset, record.offset + 1)
        if record.unreadable:
            self._outbox.refuse_batch(record)
        else:
            self._take(record)

    @abstractmethod
    def _take(self, record: Record) -> None:
        """Take a record that could be read."""

    @abstractmethod
    def _safe_position(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Return the offset before which nothing is needed, and the new checkpoints: keys and values."""

    @property
    def is_full(self) -> bool:
        """Whether the partition takes no more records for now."""
        return False

    @property
    def held_count(self) -> int:
        """Decoded chunks that wait for an earlier chunk of their stream."""
        return 0

    @property
    def is_committing(self) -> bool:
        return self._commit is not None

    def give_up(self) -> None:
        """Publish nothing more: another worker has the partition."""
        self._outbox.is_closed = True

    def step_commit(self, *, may_begin: bool) -> int | None:
        """Advance the commit under way as far as the broker's acknowledgements allow, or begin one.

        Returns:
            The offset to commit now; None: there is nothing to commit yet.
        Raises:
            BrokerUnavailable: If the broker will never have a record that was sent.
        """
        outstanding = self._outbox.unacknowledged()
        commit = self._commit
        if commit is None:
            if may_begin:
                position, checkpoints = self._safe_position()
                if position != self.committed or checkpoints:
                    self._commit = _Commit(position, checkpoints, outstanding)
            return None
        commit.awaited = [delivery for delivery in commit.awaited if not is_acknowledged(delivery)]
        if commit.awaited:
            return None
        if not commit.has_sent_checkpoints:
            commit.has_sent_checkpoints = True
            commit.awaited = [self._effects.send_checkpoint(self.number, *entry) for entry in commit.checkpoints]
            if commit.awaited:
                return None
        return self._finish_commit(commit)

    def _finish_commit(self, commit: _Commit) -> int | None:
        self._commit = None
        if commit.next_offset == self.committed:
            return None
        self.committed = commit.next_offset
        return self.committed


class ChunkPartition(Partition):
    """A partition of kinodex.chunks: many streams, each with its own order."""

    def __init__(
        self,
        effects: Effects,
        topic: str,
        number: int,
        next_offset: int,
        checkpoints: Mapping[bytes, stream_pb2.Checkpoint],
        checkpointed_seconds: float = 0.0,
        *,
        config: StreamConfig,
        topic_id: str = "",
        find_home: Callable[[bytes], int | None] = lambda key: None,
    ) -> None:
        """Continue the streams from their checkpoints, the newest of which was appended at `checkpointed_seconds`.

        Chunks appended earlier may have been taken already.

        Args:
            find_home: Returns the other partition in which the stream of a record's key began; None: in no other.
        """
        super().__init__(effects, topic, number, next_offset)
        self._config, self._checkpointed_seconds = config, checkpointed_seconds
        self._find_home = find_home
        self._topic_id = topic_id  # of the topic that has these offsets
        # Serialised checkpoints of streams that ended: a stream that comes back must recognise its old chunks.
        self._ended = {key: checkpoint.SerializeToString() for key, checkpoint in checkpoints.items()}
        self._sent: dict[bytes, bytes] = {}  # the newest checkpoint of each open stream
        self._streams: dict[bytes, LiveStream] = {}
        for key, checkpoint in checkpoints.items():
            if not checkpoint.ended:
                self._open(key, checkpoint.collection, checkpoint.stream_id)

    @property
    def resume_offset(self) -> int | None:
        """The first record that an open stream needs, right after construction; None: no stream is open."""
        return min((stream.next_offset for stream in self._streams.values()), default=None)

    @property
    def held_count(self) -> int:
        return sum(stream.held_count for stream in self._streams.values())

    def open_streams(self) -> Iterator[LiveStream]:
        """Yield the streams that have something that is not final."""
        return (stream for stream in self._streams.values() if not stream.is_over)

    def _take(self, record: Record) -> None:
        key = b"/".join((self.topic.encode(), record.key))
        is_known = key in self._streams or key in self._ended
        if not is_known and (home := self._find_home(record.key)) is not None:
            self._outbox.forward(record, home)
            self._effects.count("forwarded")
            return
        if record.value is None:
            self._reset_sessions(record)
            return
        try:
            chunk = read_chunk(record.value)
            if record.key != (key := video_key(chunk.collection, chunk.stream_id)):
                # The key decides the partition: a stream must not be in two partitions, of two workers.
                raise RecordInvalid(f"not a chunk: its key is not {key.decode()}")
        except RecordInvalid as error:
            self._outbox.refuse(record, name_of(error), str(error))
            return
        lead_seconds = chunk.session / MILLISECONDS - record.append_seconds
        if lead_seconds > self._config.max_session_lead_seconds:
            message = (
                f"session {chunk.session} of {chunk.collection}/{chunk.stream_id} lies {lead_seconds:.0f} s ahead of"
                " the brokers' clock: set the publisher's clock (worker.max_session_lead_seconds)"
            )
            self._outbox.refuse(record, SESSION_AHEAD, message)
            return
        key = checkpoint_key(self.topic, chunk.collection, chunk.stream_id)
        stream = self._streams.get(key) or self._open(key, chunk.collection, chunk.stream_id)
        received = ReceivedChunk(chunk=chunk, record=record)
        if self._is_late(record) and not chunk.end_of_stream:
            received.failure = SHED
        arrival = stream.push(received)
        is_shed = arrival is Arrival.TAKEN and received.failure == SHED
        self._effects.count("shed" if is_shed else arrival.value)

    def _reset_sessions(self, record: Record) -> None:
        """Let the sessions of a known stream begin anew: its video was deleted, or its publisher starts."""
        key = b"/".join((self.topic.encode(), record.key))
        if key in self._ended:
            checkpoint = stream_pb2.Checkpoint.FromString(self._ended[key])
            self._open(key, checkpoint.collection, checkpoint.stream_id)
        if key in self._streams:
            self._streams[key].reset_sessions(record.offset)
        self._effects.count("reset")

    def close_idle(self, read_since: float) -> None:
        """End streams that were silent for too long; see LiveStream.close_idle. Call it when all records are read."""
        for stream in self._streams.values():
            stream.close_idle(read_since)

    def _is_late(self, record: Record) -> bool:
        """Return whether to shed a chunk. A chunk taken before is never shed: its segment is published, and a revision
        that holds less would not replace it."""
        late_seconds = self._effects.broker_seconds() - record.append_seconds
        is_new = record.append_seconds > self._checkpointed_seconds + CHECKPOINT_AGE_SECONDS
        return is_new and 0 < self._config.shed_seconds < late_seconds

    def _open(self, key: bytes, collection: str, stream_id: str) -> LiveStream:
        ended = self._ended.pop(key, None)
        stream = self._streams[key] = LiveStream(
            collection,
            stream_id,
            config=self._config,
            effects=self._effects,
            outbox=self._outbox,
            checkpoint=stream_pb2.Checkpoint.FromString(ended) if ended is not None else None,
        )
        return stream

    def _safe_position(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        position, checkpoints = self.next_offset, []
        for key, stream in self._streams.items():
            checkpoint = stream.checkpoint(self.topic, self._topic_id)
            if not stream.is_over:
                position = min(position, checkpoint.record_offset)
            data = checkpoint.SerializeToString(deterministic=True)
            if self._sent.get(key) != data:
                self._sent[key] = data
                checkpoints.append((key, data))
        return position, checkpoints

    def _finish_commit(self, commit: _Commit) -> int | None:
        self._forget_ended()
        return super()._finish_commit(commit)

    def _forget_ended(self) -> None:
        """Reduce each stream that is over to its checkpoint, once the broker has it."""
        for key, stream in list(self._streams.items()):
            if not stream.is_over:
                continue
            data = stream.checkpoint(self.topic, self._topic_id).SerializeToString(deterministic=True)
            if self._sent.get(key) == data:
                self._ended[key] = self._sent.pop(key)
                del self._streams[key]


class SourcePartition(Partition):
    """A partition of kinodex.sources: whole files."""

    def __init__(self, effects: Effects, topic: str, number: int, next_offset: int) -> None:
        super().__init__(effects, topic, number, next_offset)
        self._works: dict[int, FileWork] = {}  # by offset: files that are not done

    def _take(self, record: Record) -> None:
        try:
            source = read_source(record.value or b"")
        except RecordInvalid as error:
            self._outbox.refuse(record, name_of(error), str(error))
            return
        work = self._works[record.offset] = FileWork(source, record)
        self._effects.decode_file(work, lambda: self._advance(work))
        self._effects.count(Arrival.TAKEN.value)

    @property
    def is_full(self) -> bool:
        return len(self._works) >= MAX_FILES

    def give_up(self) -> None:
        super().give_up()
        for work in self._works.values():
            work.is_cancelled = True

    def step_commit(self, *, may_begin: bool) -> int | None:
        position = super().step_commit(may_begin=may_begin)
        self._resume_decoding()
        return position

    def _advance(self, work: FileWork) -> None:
        """Encode the decoded pieces of a file, and publish new revisions of its segments."""
        if self._outbox.is_closed or work.record.offset not in self._works:  # given up, or failed meanwhile
            return
        if work.failure is not None:
            self._fail(work, work.failure)
            return
        if work.flow is None:
            return
        for submission in work.take_submissions():
            if submission.step.frames:
                self._effects.encode(submission.step, lambda: self._advance(work), is_live=False)
            if submission.step.is_reading and work.flow is not None:
                self._effects.read_text(work.flow, submission.step, lambda: self._advance(work), is_live=False)
            if submission.speech:
                self._effects.transcribe(work.flow, submission.speech, lambda: self._advance(work), is_live=False)
        work.published.update(self._outbox.publish(work.flow.records()))
        self._resume_decoding()

    def _fail(self, work: FileWork, failure: IngestError) -> None:
        """Withdraw all segments of a file that fails half-way."""
        del self._works[work.record.offset]
        if work.flow is not None:
            self._outbox.withdraw(work.flow, work.published)
        self._outbox.refuse(work.record, name_of(failure), failure.reason, uri=work.source.uri)

    def _resume_decoding(self) -> None:
        """Let the files decode more, unless the broker is behind."""
        if len(self._outbox.unacknowledged()) >= MAX_UNACKNOWLEDGED:
            return
        for offset, work in list(self._works.items()):
            work.resume_decoding()
            if work.is_done:
                del self._works[offset]
                logger.info("file done uri=%s video=%s/%s", work.name, work.source.collection, work.video_id)
                if work.flow is not None and work.flow.warnings:
                    logger.warning("file has faults uri=%s warnings=%s", work.name, "; ".join(work.flow.warnings))

    def _safe_position(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        return min(self._works, default=self.next_offset), []
