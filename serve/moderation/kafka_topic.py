"""The Kafka topic of moderation events."""

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
from serve.event import Event

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2


class EventTopic:
    """The topic of events, key = video."""

    name = "kafka"
    batch_count = 100  # so many are on their way at once

    def __init__(self, config: KafkaConfig) -> None:
        self._config, self._topic = config, Topics(config.topic_prefix).events
        self._producer: Producer | None = None
        self._offsets: dict[int, int] = {}  # by partition: behind our last record
        self._there: set[tuple[str, int]] = set()  # id and revision of what came behind that

    def begin(self, state: Any) -> None:
        """Read what came since: what was sent and not noted is there, or will never be."""
        self._offsets = {} if state is None else {int(partition): at for partition, at in state.items()}
        with PartitionReader(self._config) as reader:
            try:
                self._read_on(reader)
            except OffsetRegression:  # another topic of the same name
                self._offsets = {}
                self._read_on(reader)

    def _read_on(self, reader: PartitionReader) -> None:
        self._there = set()
        places = [(self._topic, partition) for partition in reader.partitions_of(self._topic)]
        reader.assign((*place, self._offsets.get(place[1])) for place in places)
        ends = reader.end_offsets(places)
        patience = time.monotonic() + self._config.bootstrap_timeout_seconds
        while any(position < ends[place] for place, position in reader.positions().items()):
            records = reader.poll(POLL_SECONDS)
            for record in records:
                try:
                    event = stream_pb2.Event.FromString(record.value or b"")
                except DecodeError:  # somebody else's, and still there at every try: no reason to end
                    logger.warning(
                        "record skipped topic=%s partition=%d offset=%d reason=no event",
                        record.topic, record.partition, record.offset,
                    )  # fmt: skip
                    continue
                self._there.add((event.event_id, event.revision))
            if records:
                patience = time.monotonic() + self._config.bootstrap_timeout_seconds
            elif time.monotonic() > patience:
                raise BrokerUnavailable(self._config.servers, f"{self._topic} is not read on")

    def deliver(self, events: Sequence[Event], wait: Callable[[float], bool]) -> Any:
        """Append them, each behind those before of its video."""
        if self._producer is None:
            self._producer = Producer(self._config)
        sent = []
        for event in events:
            if (event.event_id, event.revision) in self._there:
                continue
            if wait(0.0):  # to send may take long, where the broker is away
                raise Stopped
            key = video_key(event.collection, event.video_id)
            partition = self._producer.partition_of(self._topic, key)
            value = event_message(event).SerializeToString()
            sent.append((partition, self._producer.send(self._topic, key, value, partition=partition)))
        for partition, delivery in sent:
            self._wait_for(delivery, wait)
            if delivery.offset is None:
                self.close()
                raise BrokerUnavailable(self._config.servers, str(delivery.error or "an event was not taken in time"))
            self._offsets[partition] = max(self._offsets.get(partition, 0), delivery.offset + 1)
        return {str(partition): at for partition, at in self._offsets.items()}

    def _wait_for(self, delivery: Delivery, wait: Callable[[float], bool]) -> None:
        """Wait until a record is there or given up; not where all is to end, as begin() finds what arrives then."""
        end = time.monotonic() + self._config.delivery_timeout_seconds
        while not delivery.wait(POLL_SECONDS) and time.monotonic() < end:
            if wait(0.0):
                raise Stopped

    def close(self) -> None:
        """Let go of the connection."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()
