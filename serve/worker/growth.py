"""grow(): adds partitions to the topics of the work, once workers have begun all streams whose chunks are in Kafka.

A stream stays in the partition where a worker began it. Added partitions move the keys of all others: the old chunks of
such a stream would wait in one partition while a worker takes newer ones from another.
"""

import time
from collections.abc import Callable, Iterable

from ingest.kafka import PartitionReader, TopicOutcome, Topics, committed_offsets, grow_topics
from serve.errors import StreamsNotBegun
from serve.settings import Settings
from serve.worker.stream import latest_checkpoints

LOOK_SECONDS = 1.0  # between two looks at what workers have begun
# Bounds the wait beyond worker.idle_seconds, after which no silent stream holds back its partition's commits. A worker
# takes over the partitions of a dead one, and its first checkpoints arrive, in less.
SPARE_SECONDS = 30.0

Waiting = dict[tuple[int, bytes], int]  # partition, key of a stream -> offset of the newest of its chunks


def grow(settings: Settings, partition_count: int, announce: Callable[[str], None]) -> list[TopicOutcome]:
    """Add partitions as grow_topics() does; first wait for workers, and pass `announce` a line if it takes time.

    Raises:
        StreamsNotBegun: If workers have not begun all streams in time. Then nothing is changed.
        ValueError, BrokerUnavailable: As of grow_topics().
    """
    return grow_topics(settings.kafka, partition_count, lambda: _await_workers(settings, announce))


def _await_workers(settings: Settings, announce: Callable[[str], None]) -> None:
    seconds = settings.worker.idle_seconds + SPARE_SECONDS
    deadline, is_announced = time.monotonic() + seconds, False
    with PartitionReader(settings.kafka) as reader:
        waiting = _find_unread(settings, reader)
        while waiting := _without_begun(settings, reader, waiting):
            if not is_announced:
                announce(f"waiting up to {seconds:.0f} s for workers to begin {_describe(waiting)}")
                is_announced = True
            if time.monotonic() > deadline:
                raise StreamsNotBegun(_describe(waiting))
            time.sleep(LOOK_SECONDS)


def _find_unread(settings: Settings, reader: PartitionReader) -> Waiting:
    """Return the streams of all chunks that lie beyond the committed offsets now."""
    topic = Topics(settings.kafka.topic_prefix).chunks
    found: Waiting = {}
    for number, start in _read_starts(settings, reader, reader.partitions_of(topic)).items():
        for record in reader.read_to_end(topic, number, since_offset=start):
            found[number, record.key] = record.offset
    return found


def _without_begun(settings: Settings, reader: PartitionReader, waiting: Waiting) -> Waiting:
    """Return the streams whose chunks a worker must still take before partitions are added.

    A chunk is taken when the stream has a checkpoint in its partition, or the offset behind the chunk is committed:
    dead letters begin no stream, and a chunk that another growth moved was passed on.
    """
    topics = Topics(settings.kafka.topic_prefix)
    numbers = {number for number, _ in waiting}
    starts = _read_starts(settings, reader, numbers)
    checkpointed = set(reader.partitions_of(topics.checkpoints)) & numbers
    begun = {
        (number, key)
        for number in checkpointed
        for key in latest_checkpoints(reader.read_to_end(topics.checkpoints, number), topics.chunks)[0]
    }
    return {
        (number, key): offset
        for (number, key), offset in waiting.items()
        if (number, b"/".join((topics.chunks.encode(), key))) not in begun and offset >= starts[number]
    }


def _read_starts(settings: Settings, reader: PartitionReader, numbers: Iterable[int]) -> dict[int, int]:
    """Return the offset in each partition of chunks from which a worker would read."""
    places = [(Topics(settings.kafka.topic_prefix).chunks, number) for number in numbers]
    beginnings, ends = reader.beginning_offsets(places), reader.end_offsets(places)
    committed = committed_offsets(settings.kafka, settings.worker_group, places)
    starts = {}
    for place in places:
        offset = committed[place]
        is_valid = offset is not None and beginnings[place] <= offset <= ends[place]
        starts[place[1]] = offset if offset is not None and is_valid else beginnings[place]
    return starts


def _describe(waiting: Waiting) -> str:
    number, key = min(waiting)
    more = f", and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    return f"the stream {key.decode(errors='backslashreplace')} in partition {number}{more}"
