"""Dead letters: the records of Kafka that could not be used, and why."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ingest.kafka import MAX_RECORD_BYTES, Record
from kinodex.v1 import stream_pb2
from serve.codec.fields import escape_surrogates, timestamp_message
from serve.errors import RecordInvalid

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be used, as it stands in the topic of dead letters."""

    topic: str  # of the record
    partition: int
    offset: int
    last_offset: int  # of a batch that could not be unpacked; else 0
    append_seconds: float  # of the record, since 1970
    key: bytes
    value: bytes
    reason: str
    message: str

    @property
    def letter_id(self) -> str:
        """The letter's own key: "topic/partition/offset"."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def stream(self) -> str:
        """The record's key as text: "collection/stream_id"."""
        return self.key.decode("utf-8", "backslashreplace")


def read_dead_letter(data: bytes) -> DeadLetter:
    """Read the value of a dead letter.

    Raises:
        RecordInvalid: If it is none.
    """
    try:
        letter = stream_pb2.DeadLetter.FromString(data)
    except DecodeError as error:
        raise RecordInvalid(f"not a dead letter: {error}") from error
    return DeadLetter(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.record_offset,
        last_offset=letter.last_record_offset,
        append_seconds=letter.append_time.ToMicroseconds() / 1e6,
        key=letter.key,
        value=letter.value,
        reason=letter.reason,
        message=letter.message,
    )
