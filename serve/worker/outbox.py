"""Outbox: what one partition sends to the broker, and which of it the broker has not acknowledged yet."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from ingest.kafka import MAX_RECORD_BYTES, Delivery, Record
from serve.codec.records import DeadLetter, SegmentRecord, dead_letter_bytes, segment_bytes
from serve.worker.effects import Effects
from serve.worker.video_flow import VideoFlow

logger = logging.getLogger(__name__)

MAX_VALUE_BYTES = MAX_RECORD_BYTES - (64 << 10)  # of a record's value: leaves room for its key and Kafka's own fields


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

    def refuse(self, record: Record, reason: str, message: str) -> None:
        """Send a record that cannot be used to the dead letters, and count it by its reason."""
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
        if len(data) > self._max_value_bytes:
            data = dead_letter_bytes(replace(letter, value=b"", message=f"{message}; too large to be kept here"))
        self._deliveries.append(self._effects.send_dead_letter(key, data))
        self._effects.count(reason)

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
