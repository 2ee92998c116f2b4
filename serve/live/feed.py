"""What feeds a server from Kafka, put together: the topics, the catalog, and the thread between them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ingest.kafka import PartitionId, PartitionReader, Record, Topics
from serve.catalog.catalog import Catalog
from serve.live.deletions import Forgetter, Tombstones
from serve.live.materialiser import Materialiser
from serve.live.rows import LiveRows
from serve.observe.metrics import LiveMetrics
from serve.retention import read_retention
from serve.settings import Settings

PARTITION_SECONDS = 5.0  # between two looks for partitions that were added
MOST_ANSWER_SECONDS = 5.0  # for an answer of a broker: a server that is told to stop waits as long


class TopicReader:
    """Reads all partitions of some topics, also those that are added."""

    def __init__(self, reader: PartitionReader, topics: Sequence[str], positions: Mapping[PartitionId, int]) -> None:
        """Begin.

        Args:
            positions: Where, by topic and partition; the others from their beginning.
        Raises:
            OffsetRegression: If a position lies beyond the partition's end.
            BrokerUnavailable: If no broker answers, or there are no such topics.
        """
        self.reader, self.topics = reader, topics
        self.places: list[PartitionId] = []
        self.looked_at = 0.0
        self.look(positions)

    def look(self, positions: Mapping[PartitionId, int]) -> None:
        """Find all partitions."""
        self.looked_at = time.monotonic()
        found = [(topic, partition) for topic in self.topics for partition in self.reader.partitions_of(topic)]
        if set(found) - set(self.places):
            self.reader.assign((*place, positions.get(place)) for place in found)
            self.places = found

    def poll(self, timeout_seconds: float) -> Sequence[Record]:
        """Return the records that follow, in order within a partition; none: there was none in time."""
        return self.reader.poll(timeout_seconds)

    def ends(self) -> Mapping[PartitionId, int]:
        """Ask for the offset behind the last record of each partition."""
        if time.monotonic() - self.looked_at >= PARTITION_SECONDS:
            self.look(self.positions())
        return self.reader.end_offsets(self.places)

    def positions(self) -> Mapping[PartitionId, int]:
        """Return the offset of the next record of each partition."""
        return self.reader.positions()


class Feed:
    """A server's connection to Kafka. start() begins it, stop() ends it."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        fingerprint: str,
        metrics: LiveMetrics,
        *,
        on_change: Callable[[], None],
        on_caught_up: Callable[[], object],
        on_end: Callable[[Exception], object],
    ) -> None:
        """Take a data directory; see Materialiser for the rest. Nothing is connected yet.

        Raises:
            DataDirectoryInvalid: If the catalog cannot be used.
        """
        answer_seconds = min(MOST_ANSWER_SECONDS, settings.kafka.bootstrap_timeout_seconds)
        self.config, self.metrics = replace(settings.kafka, bootstrap_timeout_seconds=answer_seconds), metrics
        self.topics = Topics(settings.kafka.topic_prefix)
        self.catalog = Catalog.open_editor(directory)
        self.rows = LiveRows(self.catalog, fingerprint)
        self.forgetter = Forgetter(self.config)
        self.materialiser = Materialiser(
            self.rows,
            self.open_reader,
            Tombstones(self.forgetter.send_tombstone, self.forgetter.undelivered),
            segments_topic=self.topics.segments,
            deletions_topic=self.topics.deletions,
            retention=read_retention(settings.server.retention),
            metrics=metrics,
            on_change=on_change,
            on_caught_up=on_caught_up,
            on_end=on_end,
        )

    @contextmanager
    def open_reader(self, positions: Mapping[PartitionId, int]) -> Iterator[TopicReader]:
        with PartitionReader(self.config) as reader:
            yield TopicReader(reader, (self.topics.deletions, self.topics.segments), positions)

    def start(self) -> None:
        """Begin to read."""
        self.materialiser.start()

    def delete(self, collection: str, video_id: str, seconds: float) -> None:
        """Delete a live video, here and on every other server; see Forgetter.delete."""
        self.forgetter.delete(self.rows, collection, video_id, seconds)
        self.metrics.deletions.inc()

    def stop(self) -> None:
        """End. May be called twice."""
        self.materialiser.stop()
        self.forgetter.close()
        self.catalog.close()
