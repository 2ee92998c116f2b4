"""Records of the topic of settings: their values, and their bytes, which are messages of kinodex.v1."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from kinodex.v1 import stream_pb2
from serve.errors import RecordInvalid


def retention_bytes(limits: Sequence[str]) -> bytes:
    """Return the record of limits like "cams=7d"."""
    return stream_pb2.Retention(limits=limits).SerializeToString()


def read_retention_limits(data: bytes) -> tuple[str, ...]:
    """Return the limits of a record.

    Raises:
        RecordInvalid: If the bytes are no such record.
    """
    try:
        return tuple(stream_pb2.Retention.FromString(data).limits)
    except DecodeError as error:
        raise RecordInvalid("not a retention: the bytes are no such message") from error
