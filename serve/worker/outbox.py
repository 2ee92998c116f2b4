"""Outbox: what one partition sends to the broker, and which of it the broker has not acknowledged yet."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from ingest.kafka import Delivery, Record
from ingest.source.redaction import escape_unprintable
from ingest.source.source import display_uri
from serve.codec.dead_letters import BATCH_UNREADABLE, MAX_VALUE_BYTES, dead_letter
from serve.codec.records import SegmentRecord, segment_bytes
from serve.worker.effects import Effects
from serve.worker.video_flow import VideoFlow

logger = logging.getLogger(__name__)


class Outbox:
    """Sends segments, tombstones and dead letters, and remembers their deliveries for the commit protocol."""

    def __init__(self, effects: Effects, *, max_value_bytes: int = MAX_VALUE_BYTES) -> None:
        self._effects, self._max_value_bytes = effects, max_value_bytes
        self._deliveries: list[Delivery] = []
        self.is_closed = False  # the partition was given up: results that come back are dropped

    def publish(self, records: Iterable[SegmentRecord]) -> list[bytes]:
        """Send segments; return their keys."""
        keys = []
        for record in records:
            data = segment_bytes(record)
            if len(data) > self._max_value_bytes:  # a picture a hundred times as wide as high has such a thumbnail
                logger.warning("segment without thumbnails segment=%s bytes=%d", record.segment.segment_id, len(data))
                data = segment_bytes(replace(record, thumbnails=()))
            self._deliveries.append(self._effects.send_segment(record, data))
            keys.append(record.key)
        return keys

    def withdraw(self, flow: VideoFlow, keys: Iterable[bytes]) -> None:
        """Send tombstones for published segments of a video."""
        self._deliveries += [self._effects.send_tombstone(flow, key) for key in sorted(keys)]

    def forward(self, record: Record, partition: int) -> None:
        """Pass a record of a stream on to the partition where the stream began."""
        self._deliveries.append(self._effects.send_chunk(partition, record.key, record.value))

    def refuse(self, record: Record, reason: str, message: str, *, uri: str = "") -> None:
        """Send a record that cannot be used to the dead letters, and count it by its reason.

        Args:
            uri: Where its media are, for the log; empty: in the record.
        """
        logger.warning(
            "dead letter stream=%s uri=%s topic=%s partition=%d offset=%d reason=%s message=%s",
            escape_unprintable(record.key.decode("utf-8", "backslashreplace")), display_uri(uri) or "none",
            record.topic, record.partition, record.offset, reason, message,
        )  # fmt: skip
        key, data = dead_letter(record, reason, message, max_value_bytes=self._max_value_bytes)
        self._deliveries.append(self._effects.send_dead_letter(key, data))
        self._effects.count(reason)

    def refuse_batch(self, record: Record) -> None:
        """Send a batch of records that cannot be unpacked to the dead letters."""
        message = f"offsets {record.first_offset} to {record.offset}: {record.unreadable}"
        self.refuse(record, BATCH_UNREADABLE, message)

    def unacknowledged(self) -> list[Delivery]:
        """Return the deliveries that the broker has not acknowledged yet.

        Raises:
            BrokerUnavailable: If a record is lost for good.
        """
        self._deliveries = [delivery for delivery in self._deliveries if not is_acknowledged(delivery)]
        return list(self._deliveries)


def is_acknowledged(delivery: Delivery) -> bool:
    """Return whether the broker has a record for good.

    Raises:
        BrokerUnavailable: If the record is lost for good.
    """
    if delivery.error is not None:
        raise delivery.error
    return delivery.is_done
