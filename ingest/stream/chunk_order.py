"""The chunks of one stream in their order again, each once: duplicates are dropped, what is missing is waited for."""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

Item = TypeVar("Item")

# A chunk is waited for until so many later ones are there, or the newest of these came so long after the first of them.
# Both are read off the log, so that who reads it again comes to the same end.
MAX_WAITING_COUNT = 16
MAX_WAITING_SECONDS = 10.0


class Arrival(StrEnum):
    """What a chunk that arrives is."""

    TAKEN = "taken"
    DUPLICATE = "duplicate"  # this one came before, or is given up
    STALE = "stale"  # of a session before this one


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingChunks:
    """Chunks that are given up."""

    session: int
    first_sequence: int
    chunk_count: int


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item]):
    item: Item
    append_seconds: float


class ChunkOrder(Generic[Item]):
    """Puts items in the order of their session and sequence. Items come out by `next()`."""

    def __init__(self, *, session: int = -1, next_sequence: int = 0) -> None:
        """Begin with a chunk of a session; -1: with whatever session comes first."""
        self.session, self.next_sequence = session, next_sequence
        self._waiting: dict[int, _Waiting[Item]] = {}
        self._ready: deque[Item | MissingChunks] = deque()

    @property
    def waiting_since(self) -> float | None:
        """When the first of those that wait for a missing one was appended; None: none waits."""
        return min((one.append_seconds for one in self._waiting.values()), default=None)

    def push(self, item: Item, *, session: int, sequence: int, append_seconds: float) -> Arrival:
        """Take one chunk as it arrives."""
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
        """Return what comes next in order; None: it is not there yet."""
        return self._ready.popleft() if self._ready else None

    def give_up(self) -> None:
        """Wait for nothing that is missing any more."""
        while self._waiting:
            self._skip()

    def _skip(self) -> None:
        """Go on behind the gap."""
        first = min(self._waiting)
        self._ready.append(
            MissingChunks(
                session=self.session, first_sequence=self.next_sequence, chunk_count=first - self.next_sequence
            )
        )
        self.next_sequence = first
        self._release()

    def _release(self) -> None:
        while (found := self._waiting.pop(self.next_sequence, None)) is not None:
            self._ready.append(found.item)
            self.next_sequence += 1
