"""How values lie in the catalog's columns: URIs and arrays as bytes, the rest as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.values import Word
from ingest.values import MediaInfo
from serve.errors import DataDirectoryInvalid
from serve.values import Video

VIDEO_FIELDS = (
    "row, video_id, collection, uri, content_sha256, media, duration_seconds, frame_count, segment_count,"
    " utterance_count, warnings, indexed_time, metadata, recorded_time"
)


def video_of(fields: tuple[Any, ...]) -> Video:
    (row, video_id, collection, uri, sha256, media, duration, frames, segments, utterances, warnings, at,
     metadata, recorded) = fields  # fmt: skip
    return Video(
        row=row, video_id=video_id, collection=collection, uri=uri_of(uri),
        content_sha256=sha256, media=MediaInfo(**json.loads(media)), duration_seconds=duration, frame_count=frames,
        segment_count=segments, utterance_count=utterances, warnings=tuple(json.loads(warnings)), indexed_time=at,
        metadata=json.loads(metadata), recorded_time=recorded,
    )  # fmt: skip


def uri_bytes(uri: str) -> bytes:
    return uri.encode(errors="surrogateescape")


def uri_of(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def metadata_json(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata), sort_keys=True)


def words_json(words: Sequence[Word]) -> str:
    return json.dumps([[word.text, word.start_seconds, word.end_seconds, word.probability] for word in words])


def words_of(text: str) -> tuple[Word, ...]:
    return tuple(
        Word(text=word, start_seconds=start, end_seconds=end, probability=probability)
        for word, start, end, probability in json.loads(text)
    )


def vector_bytes(vector: NDArray[np.float32]) -> bytes | None:
    return vector.astype("<f4").tobytes() if vector.size else None


def array_of(data: bytes, dtype: str, size: int, directory: Path) -> NDArray[Any]:
    """Return a writable array of `size` numbers; DataDirectoryInvalid where the blob is not as long as its row says."""
    if len(data) != size * np.dtype(dtype).itemsize:
        raise DataDirectoryInvalid(str(directory), f"an array of {size} {dtype} has {len(data)} bytes")
    return np.frombuffer(bytearray(data), dtype)
