"""Dead letters: the records of Kafka that could not be used, and why."""

from ingest.kafka import MAX_RECORD_BYTES, Record
from kinodex.v1 import stream_pb2
from serve.codec.fields import escape_surrogates, timestamp_message

BATCH_UNREADABLE = "BATCH_UNREADABLE"  # the reason of a batch of records that cannot be unpacked
MAX_VALUE_BYTES = MAX_RECORD_BYTES - (64 << 10)  # of a record's value: leaves room for its key and Kafka's own fields


def dead_letter(
    record: Record, reason: str, message: str, *, max_value_bytes: int = MAX_VALUE_BYTES
) -> tuple[bytes, bytes]:
    """Return the key and the value of the dead letter of a record, or of the batch that the record stands for.

    Args:
        reason: UPPER_SNAKE, for programs.
        message: For people.
        max_value_bytes: A record that makes a longer letter is left out of it, and the message says so.
    """
    first = record.first_offset if record.unreadable else record.offset
    letter = stream_pb2.DeadLetter(
        topic=record.topic,
        partition=record.partition,
        record_offset=first,
        last_record_offset=record.offset if record.unreadable else 0,
        append_time=timestamp_message(record.append_seconds),
        key=record.key,
        value=record.value or b"",
        reason=reason,
        message=escape_surrogates(message),
    )
    if letter.ByteSize() > max_value_bytes:
        letter.value, letter.message = b"", escape_surrogates(f"{message}; too large to be kept here")
    return f"{record.topic}/{record.partition}/{first}".encode(), letter.SerializeToString()
