"""Puts the chunks of one stream into order: drops duplicates, and waits for missing chunks within a bound."""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")

# A missing chunk is given up when this many later chunks wait, or when the newest of them was appended this long after
# the oldest. Both follow from the log alone, so a second reading of it gives up the same chunks.
MAX_WAITING_COUNT = 16
MAX_WAITING_SECONDS = 10.0


class Session(NamedTuple):
    """One run of a publisher. Sessions are ordered: chunks of an earlier one are stale."""

    reset_offset: int  # of the record after which numbers count anew; 0: none
    number: int  # greater with each start of the publisher; -1: before the first


NO_SESSION = Session(0, -1)


class Arrival(StrEnum):
    """How an arriving chunk was treated."""

    TAKEN = "taken"
    DUPLICATE = "duplicate"  # the same chunk arrived before, or was given up
    STALE = "stale"  # of an earlier session


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingChunks:
    """Consecutive chunks that were given up."""

    session: Session
    first_sequence: int
    chunk_count: int


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item]):
    item: Item
    append_seconds: float


class ChunkOrder(Generic[Item]):
    """Orders items by session and sequence number. `next()` returns them."""

    def __init__(self, *, session: Session = NO_SESSION, next_sequence: int = 0) -> None:
        """Begin at a chunk of a session, by default at the first session that comes."""
        self.session, self.next_sequence = session, next_sequence
        self._waiting: dict[int, _Waiting[Item]] = {}
        self._ready: deque[Item | MissingChunks] = deque()

    @property
    def waiting_since(self) -> float | None:
        """When the oldest waiting chunk was appended; None if none waits for a missing chunk."""
        return min((waiting.append_seconds for waiting in self._waiting.values()), default=None)

    def push(self, item: Item, *, session: Session, sequence: int, append_seconds: float) -> Arrival:
        """Take an arriving chunk."""
        if session < self.session:
            return Arrival.STALE
        if session > self.session:
            self.give_up()
            self.session, self.next_sequence = session, 0
        if sequence < self.next_sequence or sequence in self._waiting:
            return Arrival.DUPLICATE
        self._waiting[sequence] = _Waiting(item, append_seconds)
        self._release()
        first = self.waiting_since
        if first is not None and (
            len(self._waiting) >= MAX_WAITING_COUNT or append_seconds - first >= MAX_WAITING_SECONDS
        ):
            self._skip()
        return Arrival.TAKEN

    def next(self) -> Item | MissingChunks | None:
        """Return the next item in order, or the gap before it; None if it has not arrived."""
        return self._ready.popleft() if self._ready else None

    def give_up(self) -> None:
        while self._waiting:
            self._skip()

    def _skip(self) -> None:
        """Give up the chunks before the first waiting one."""
        first = min(self._waiting)
        self._ready.append(
            MissingChunks(
                session=self.session, first_sequence=self.next_sequence, chunk_count=first - self.next_sequence
            )
        )
        self.next_sequence = first
        self._release()

    def _release(self) -> None:
        while (waiting := self._waiting.pop(self.next_sequence, None)) is not None:
            self._ready.append(waiting.item)
            self.next_sequence += 1
