"""Feed: a server's connection to Kafka, made of a reader of the topics, the catalog and the thread between them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ingest.errors import TopicReplaced
from ingest.kafka import PartitionId, PartitionReader, Record, Topics
from serve.catalog.catalog import Catalog
from serve.config import parse_retention
from serve.live.broker_clock import BrokerClock
from serve.live.live_rows import LiveRows
from serve.live.materialiser import Materialiser
from serve.live.pruner import Pruner
from serve.live.sender import RecordSender
from serve.live.tombstones import PendingTombstones
from serve.observe.metrics import LiveMetrics
from serve.settings import Settings

PARTITION_SECONDS = 5.0  # between two checks for new partitions
MAX_ANSWER_SECONDS = 5.0  # bound of a broker's answer; a stopping server waits no longer for it


class TopicReader:
    """Reads all partitions of some topics, and new partitions as they appear."""

    def __init__(
        self,
        reader: PartitionReader,
        topics: Sequence[str],
        positions: Mapping[PartitionId, int],
        topic_ids: Mapping[str, str],
    ) -> None:
        """Assign all partitions to the reader, which begins at `positions`, or else at the beginning of a partition.

        Args:
            topic_ids: Ids of the topics that the positions belong to, as far as they are known.
        Raises:
            TopicReplaced: If a topic has another id.
            OffsetRegression: If a position lies beyond the partition's end.
            BrokerUnavailable: If no broker answers, or there are no such topics.
        """
        self._reader, self._topics = reader, topics
        self.topic_ids = dict(topic_ids)
        self._partition_ids: list[PartitionId] = []
        self._assigned_at = 0.0
        self._assign(positions)

    def _assign(self, positions: Mapping[PartitionId, int]) -> None:
        self._assigned_at = time.monotonic()
        for topic in self._topics:
            topic_id = self._reader.topic_id(topic)
            if topic_id and self.topic_ids.setdefault(topic, topic_id) != topic_id:
                raise TopicReplaced(topic)
        found = [(topic, partition) for topic in self._topics for partition in self._reader.partitions_of(topic)]
        if set(found) - set(self._partition_ids):
            self._reader.assign((*place, positions.get(place)) for place in found)
            self._partition_ids = found

    def poll(self, timeout_seconds: float) -> Sequence[Record]:
        """Return the next records, in order within a partition; none if none came in time."""
        return self._reader.poll(timeout_seconds)

    def ends(self) -> Mapping[PartitionId, int]:
        """Ask for the offset after the last record of each partition."""
        if time.monotonic() - self._assigned_at >= PARTITION_SECONDS:
            self._assign(self.positions())
        return self._reader.end_offsets(self._partition_ids)

    def positions(self) -> Mapping[PartitionId, int]:
        """Return the offset of the next record of each partition."""
        return self._reader.positions()


class Feed:
    """Keeps a server's catalog up to date from Kafka between start() and stop()."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        fingerprint: str,
        metrics: LiveMetrics,
        *,
        on_change: Callable[[], None],
        on_caught_up: Callable[[], object],
        on_away: Callable[[], object],
        on_end: Callable[[Exception], object],
    ) -> None:
        """Open the catalog; start() connects. The callbacks are those of Materialiser.

        Raises:
            DataDirectoryInvalid: If the catalog cannot be used.
        """
        answer_seconds = min(MAX_ANSWER_SECONDS, settings.kafka.bootstrap_timeout_seconds)
        self._config, self._metrics = replace(settings.kafka, bootstrap_timeout_seconds=answer_seconds), metrics
        self._topics = Topics(settings.kafka.topic_prefix)
        self.catalog = Catalog.open_editor(directory)
        self._rows = LiveRows(self.catalog, fingerprint)
        self._sender = RecordSender(self._config)
        self._tombstones = PendingTombstones(self._sender.send_segment)
        clock = BrokerClock(self._sender.send_probe)
        self._materialiser = Materialiser(
            self._rows,
            self._open_reader,
            self._tombstones,
            send_dead_letter=self._sender.send_dead_letter,
            pruner=Pruner(
                self._rows,
                parse_retention(settings.server.retention),
                clock=clock,
                tombstones=self._tombstones,
                metrics=metrics,
                on_change=on_change,
            ),
            broker_clock=clock,
            topics=self._topics,
            metrics=metrics,
            on_change=on_change,
            on_caught_up=on_caught_up,
            on_away=on_away,
            on_end=on_end,
        )

    @contextmanager
    def _open_reader(self, positions: Mapping[PartitionId, int]) -> Iterator[TopicReader]:
        with PartitionReader(self._config) as reader:
            topics = (self._topics.deletions, self._topics.segments, self._topics.settings)
            made = TopicReader(reader, topics, positions, self._rows.topic_ids())
            self._rows.note_topics(made.topic_ids)
            yield made

    @property
    def is_behind(self) -> bool:
        """Whether the catalog may lack what Kafka holds: it was not read to its end yet, or Kafka is away."""
        return self._materialiser.is_behind

    def has_read(self) -> bool:
        """Whether the catalog has been fed from these topics before."""
        return bool(self._rows.offsets(self._topics.segments))

    def start(self) -> None:
        self._materialiser.start()

    def delete(self, collection: str, video_id: str, seconds: float) -> None:
        """Delete a live video, here and on every other server; see RecordSender.delete."""
        self._tombstones.add(self._sender.delete(self._rows, collection, video_id, seconds))
        self._metrics.deletions.inc()

    def stop(self) -> None:
        """End the thread and disconnect. May be called twice."""
        self._materialiser.stop()
        self._sender.close()
        self.catalog.close()
