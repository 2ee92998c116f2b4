"""`kinodex streams`: where each stream stands, read from Kafka alone."""

from dataclasses import dataclass
from typing import Literal

from ingest.kafka import PartitionReader, Topics, committed_offsets
from kinodex.v1 import stream_pb2
from serve.codec.dead_letters import DeadLetter
from serve.codec.records import video_key
from serve.settings import Settings
from serve.worker.dead_letters import load_dead_letters
from serve.worker.stream import latest_checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The state of one stream, by the last checkpoint of its worker. Field names are those of the JSON output."""

    stream: str  # "collection/stream_id"
    state: Literal["live", "ended"]
    partition: int
    lag: int  # records of its partition from the first one that it still needs, those of other streams included
    taken_seconds: float  # media time up to which its chunks were taken
    watermark_seconds: float | None  # media time up to which it is final, at least; None: an earlier epoch is not final
    updated_seconds: float  # when the worker last stored its state, since 1970
    last_error: str  # the newest dead letter; empty: none


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """Records of a partition of chunks or sources that no worker has finished."""

    topic: str
    partition: int
    lag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All streams, and the partitions that are behind."""

    streams: list[StreamState]
    partitions: list[PartitionLag]


def load_overview(settings: Settings) -> Overview:
    """Read the checkpoints, the dead letters and the offsets.

    Raises:
        BrokerUnavailable: If no broker answers, or a topic is missing.
    """
    config, topics = settings.kafka, Topics(settings.kafka.topic_prefix)
    errors: dict[bytes, DeadLetter] = {}
    for letter in load_dead_letters(config):
        errors[letter.key] = letter
    streams: list[StreamState] = []
    with PartitionReader(config) as reader:
        read = [(topic, n) for topic in (topics.chunks, topics.sources) for n in reader.partitions_of(topic)]
        ends, beginnings = reader.end_offsets(read), reader.beginning_offsets(read)
        for partition in reader.partitions_of(topics.checkpoints):
            records = list(reader.read_to_end(topics.checkpoints, partition))
            updated = {record.key: record.append_seconds for record in records}
            end = ends.get((topics.chunks, partition), 0)
            for key, checkpoint in latest_checkpoints(records, topics.chunks)[0].items():
                video = video_key(checkpoint.collection, checkpoint.stream_id)
                error = errors.get(video)
                streams.append(
                    StreamState(
                        stream=video.decode(),
                        state="ended" if checkpoint.ended else "live",
                        partition=partition,
                        lag=0 if checkpoint.ended else max(0, end - checkpoint.record_offset),
                        taken_seconds=checkpoint.end_seconds,
                        watermark_seconds=_watermark(checkpoint, settings),
                        updated_seconds=updated[key],
                        last_error=f"{error.reason}: {error.message}" if error is not None else "",
                    )
                )
    committed = committed_offsets(config, settings.worker_group, read)
    lags = [
        PartitionLag(topic=topic, partition=n, lag=ends[topic, n] - max(beginnings[topic, n], committed[topic, n] or 0))
        for topic, n in read
    ]
    return Overview(
        streams=sorted(streams, key=lambda state: state.stream), partitions=[each for each in lags if each.lag > 0]
    )


def _watermark(checkpoint: stream_pb2.Checkpoint, settings: Settings) -> float | None:
    """Return where the last final segment ends, by the first one that is not."""
    if checkpoint.segment_epoch != checkpoint.epoch:
        return checkpoint.end_seconds if checkpoint.ended else None
    window, index = settings.window, checkpoint.segment_index
    final = (index - 1) * window.stride_seconds + window.length_seconds if index else 0.0
    return min(checkpoint.end_seconds, checkpoint.epoch_start_seconds + final)
