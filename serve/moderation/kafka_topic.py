"""EventTopic: a sink that appends changes of moderation events to their Kafka topic."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable, OffsetRegression
from ingest.kafka import Delivery, PartitionReader, Producer, Topics
from kinodex.v1 import stream_pb2
from serve.background import Stopped
from serve.codec.events import event_message
from serve.codec.records import video_key
from serve.codec.rows import log_unwritable
from serve.event import Event

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # between two looks, while Kafka is waited for, at whether the server stops


class EventTopic:
    """The topic of event changes, keyed by video: changes of one video stay in order."""

    name = "kafka"
    batch_count = 100  # records in flight at once

    def __init__(self, config: KafkaConfig) -> None:
        self._config, self._topic = config, Topics(config.topic_prefix).events
        self._producer: Producer | None = None
        self._offsets: dict[int, int] = {}  # by partition: the offset behind our last record
        self._present: set[tuple[str, int]] = set()  # id and revision of the events behind those offsets

    def begin(self, state: Any) -> None:
        """Read what the topic holds behind the noted offsets: those changes were sent, and are not sent again."""
        self._offsets = {} if state is None else {int(partition): offset for partition, offset in state.items()}
        with PartitionReader(self._config) as reader:
            try:
                self._read_present(reader)
            except OffsetRegression:  # the topic was deleted and made again
                self._offsets = {}
                self._read_present(reader)

    def _read_present(self, reader: PartitionReader) -> None:
        self._present = set()
        partitions = [(self._topic, partition) for partition in reader.partitions_of(self._topic)]
        reader.assign((*partition, self._offsets.get(partition[1])) for partition in partitions)
        ends = reader.end_offsets(partitions)
        deadline = time.monotonic() + self._config.bootstrap_timeout_seconds
        while any(position < ends[partition] for partition, position in reader.positions().items()):
            records = reader.poll(POLL_SECONDS)
            for record in records:
                try:
                    if record.unreadable:
                        raise DecodeError(record.unreadable)
                    event = stream_pb2.Event.FromString(record.value or b"")
                except DecodeError as error:  # of another producer; an error would come again at every try
                    logger.warning(
                        "record skipped topic=%s partition=%d offset=%d reason=no event: %s",
                        record.topic, record.partition, record.offset, error,
                    )  # fmt: skip
                    continue
                self._present.add((event.event_id, event.revision))
            if records:
                deadline = time.monotonic() + self._config.bootstrap_timeout_seconds
            elif time.monotonic() > deadline:
                raise BrokerUnavailable(self._config.servers, f"{self._topic} cannot be read to its end")

    def deliver(self, events: Sequence[Event], wait: Callable[[float], bool]) -> Any:
        """Append changes of events in order, and wait until the broker has all; return the offsets by partition."""
        if self._producer is None:
            self._producer = Producer(self._config)
        sent = []
        for event in events:
            if (event.event_id, event.revision) in self._present:
                continue
            if wait(0.0):  # send() may wait long while the broker is away
                raise Stopped
            key = video_key(event.collection, event.video_id)
            partition = self._producer.partition_of(self._topic, key)
            try:
                value = event_message(event).SerializeToString()
            except (ValueError, OverflowError) as error:  # no record can carry it: the next events pass
                log_unwritable(event, error)
                continue
            sent.append((partition, self._producer.send(self._topic, key, value, partition=partition)))
        for partition, delivery in sent:
            self._wait_for(delivery, wait)
            if delivery.offset is None:
                self.close()
                raise BrokerUnavailable(self._config.servers, str(delivery.error or "an event was not taken in time"))
            self._offsets[partition] = max(self._offsets.get(partition, 0), delivery.offset + 1)
        return {str(partition): offset for partition, offset in self._offsets.items()}

    def _wait_for(self, delivery: Delivery, wait: Callable[[float], bool]) -> None:
        """Wait until a record is in the topic or given up. After Stopped, the next begin() finds whether it is."""
        end = time.monotonic() + self._config.delivery_timeout_seconds
        while not delivery.wait(POLL_SECONDS) and time.monotonic() < end:
            if wait(0.0):
                raise Stopped

    def close(self) -> None:
        """Close the connection to the broker."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()
