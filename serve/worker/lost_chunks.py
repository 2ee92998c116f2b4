"""Ends streams whose open part cannot be read again: Kafka holds their chunks no more.

A worker that takes over a stream reads the chunks of its open segments again. If they expired, or their topic was
deleted and made anew, a second reading would make segments that hold less, with lower revisions, which readers drop.
So the open segments become final as readers hold them, with the next revision. The last one tells the gap: chunks whose
pictures it may hold, and whose words it may lack. The stream continues in a new epoch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kinodex.v1 import stream_pb2
from serve.codec.records import Gap, SegmentRecord, gap_value

EXPIRED = "EXPIRED"  # reason of a gap: the chunks left Kafka before a worker was done with them


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLog:
    """The partition of the chunks as it is now."""

    topic_id: str  # "": unknown
    beginning: int  # offset of the oldest record
    end: int  # offset after the newest record


def find_lost(checkpoints: Mapping[bytes, stream_pb2.Checkpoint], log: ChunkLog) -> list[bytes]:
    """Return the keys of the streams that have open segments, and whose chunks are not there any more."""
    return [
        key
        for key, checkpoint in checkpoints.items()
        if (not checkpoint.ended or checkpoint.placed_sequence > checkpoint.next_sequence)
        and (is_foreign(checkpoint, log) or checkpoint.record_offset < log.beginning)
    ]


def is_foreign(checkpoint: stream_pb2.Checkpoint, log: ChunkLog) -> bool:
    """Return whether the offsets of a checkpoint are those of an earlier topic of the same name."""
    is_other = bool(checkpoint.topic_id and log.topic_id and checkpoint.topic_id != log.topic_id)
    return is_other or checkpoint.record_offset > log.end


def without_offsets(checkpoint: stream_pb2.Checkpoint, log: ChunkLog) -> stream_pb2.Checkpoint:
    """Return a checkpoint that begins at the first record of a topic that was made anew."""
    moved = stream_pb2.Checkpoint()
    moved.CopyFrom(checkpoint)
    moved.record_offset = moved.reset_offset = moved.session_reset_offset = 0
    moved.topic_id = log.topic_id
    return moved


def end_stream(
    checkpoint: stream_pb2.Checkpoint, published: Iterable[SegmentRecord], log: ChunkLog
) -> tuple[list[SegmentRecord], stream_pb2.Checkpoint]:
    """End an open stream with what readers hold of it.

    Args:
        checkpoint: Where the stream should be continued.
        published: The newest segments of its video, in any order and revision.
    Returns:
        The segments to publish, and the checkpoint that follows them.
    """
    newest: dict[tuple[int, int], SegmentRecord] = {}
    for record in published:
        place = record.segment.epoch, record.segment.index
        if place not in newest or newest[place].revision <= record.revision:
            newest[place] = record
    records = [newest[place] for place in sorted(newest)]
    ended = stream_pb2.Checkpoint()
    ended.CopyFrom(checkpoint)
    ended.ended = True
    ended.epoch = max([checkpoint.epoch, *(record.segment.epoch for record in records)])
    ended.end_seconds = max([checkpoint.end_seconds, *(record.segment.span.end_seconds for record in records)])
    ended.segment_epoch, ended.segment_index = ended.epoch + 1, 0
    ended.speech_epoch, ended.speech_start_sample = ended.epoch + 1, 0
    del ended.gaps[:]
    ended.record_offset = max(log.beginning, min(checkpoint.record_offset, log.end))
    if is_foreign(checkpoint, log):
        ended = without_offsets(ended, log)
    if not records or records[-1].is_last:
        return [], ended
    ended.next_sequence = ended.placed_sequence = max(checkpoint.placed_sequence, checkpoint.next_sequence + 1)
    told = {(gap.first_sequence, gap.reason) for record in records for gap in record.gaps}
    gaps = [gap for gap in map(gap_value, checkpoint.gaps) if (gap.first_sequence, gap.reason) not in told]
    gaps.append(
        Gap(
            at_seconds=records[-1].segment.span.end_seconds,
            first_sequence=checkpoint.next_sequence,
            chunk_count=ended.next_sequence - checkpoint.next_sequence,
            reason=EXPIRED,
        )
    )
    finals = [_finish(record) for record in records if not record.is_final and record is not records[-1]]
    return [*finals, replace(_finish(records[-1]), is_last=True, gaps=(*records[-1].gaps, *gaps))], ended


def _finish(record: SegmentRecord) -> SegmentRecord:
    """Return a segment as its final revision: it holds what it held."""
    return replace(
        record,
        revision=record.revision + 1,
        is_final=True,
        watermark_seconds=max(record.watermark_seconds, record.segment.span.end_seconds),
    )
