"""Where a live video's rows stand among each other, whatever comes, changes or goes around them.

A file's segments and utterances are numbered from 0. A live video's are numbered by what they are: a segment by its
epoch and index, an utterance by the segment that introduces it and its place there. So the numbers have gaps, are in
order of time, and none changes when an earlier segment is revised or the old end is pruned.
"""

INDEX_BITS = 28  # segments of an epoch: 68 years at one in 8 seconds
UTTERANCE_BITS = 12  # utterances that one segment introduces
EPOCH_BITS = 63 - INDEX_BITS - UTTERANCE_BITS  # SQLite's integers have 64 bits, with the sign
BLOCK_BITS = 6  # 64 segments, 512 s: some 1 MiB of frame vectors, read again when one of them changes

MOST_UTTERANCES = 1 << UTTERANCE_BITS


def segment_position(epoch: int, index: int) -> int:
    """Return a segment's position in its video.

    Raises:
        ValueError: If either is out of range.
    """
    if not (0 <= epoch < 1 << EPOCH_BITS and 0 <= index < 1 << INDEX_BITS):
        raise ValueError(f"epoch must be in [0, 2^{EPOCH_BITS}) and index in [0, 2^{INDEX_BITS}), got {epoch}, {index}")
    return (epoch << INDEX_BITS) + index


def epoch_range(epoch: int) -> tuple[int, int]:
    """Return the first and the last position that a segment of an epoch can have."""
    return epoch << INDEX_BITS, ((epoch + 1) << INDEX_BITS) - 1


def utterance_position(segment: int, place: int) -> int:
    """Return the position of an utterance that a segment, by its position, introduces at a place from 0 on."""
    return (segment << UTTERANCE_BITS) + place


def block_of(segment: int) -> int:
    """Return the block that a segment's position is in. Blocks are in order of time, and none crosses epochs."""
    return segment >> BLOCK_BITS


def block_range(block: int) -> tuple[int, int]:
    """Return the first and the last position that a segment of a block can have."""
    return block << BLOCK_BITS, ((block + 1) << BLOCK_BITS) - 1
