"""ChunkOrder returns each chunk once and in order, and does not wait for ever for missing ones."""

import random

import pytest

from ingest.stream.chunk_order import (
    MAX_WAITING_COUNT,
    MAX_WAITING_SECONDS,
    Arrival,
    ChunkOrder,
    MissingChunks,
    Session,
)


def drain(order: ChunkOrder[str]) -> list[str | MissingChunks]:
    found = []
    while (one := order.next()) is not None:
        found.append(one)
    return found


def push(order: ChunkOrder[str], sequence: int, *, session: int = 1, at: float = 0.0) -> Arrival:
    return order.push(f"{session}/{sequence}", session=Session(0, session), sequence=sequence, append_seconds=at)


def missing(first: int, count: int, session: int = 1) -> MissingChunks:
    return MissingChunks(session=Session(0, session), first_sequence=first, chunk_count=count)


@pytest.mark.parametrize("seed", range(5))
def test_restores_the_order_within_the_bound_and_drops_duplicates(seed: int) -> None:
    rng, order = random.Random(seed), ChunkOrder[str]()
    arriving = sorted(range(100), key=lambda n: n + rng.uniform(0, 6))
    for n in rng.sample(range(100), 20):
        arriving.insert(arriving.index(n) + rng.randrange(1, 5), n)
    outcomes = [push(order, n) for n in arriving]
    assert drain(order) == [f"1/{n}" for n in range(100)]
    assert outcomes.count(Arrival.DUPLICATE) == 20


def test_gives_up_a_gap_when_enough_later_chunks_wait() -> None:
    order = ChunkOrder[str]()
    push(order, 0)
    for n in range(3, 2 + MAX_WAITING_COUNT):
        push(order, n)
    assert drain(order) == ["1/0"]
    push(order, 2 + MAX_WAITING_COUNT)
    assert drain(order) == ["1/0", missing(1, 2), *[f"1/{n}" for n in range(3, 3 + MAX_WAITING_COUNT)]][1:]
    assert push(order, 1) is Arrival.DUPLICATE, "what was given up does not come back"


def test_gives_up_a_gap_when_a_chunk_is_appended_long_after_a_waiting_chunk() -> None:
    order = ChunkOrder[str]()
    push(order, 1, at=5.0)
    push(order, 2, at=4.9 + MAX_WAITING_SECONDS)
    assert drain(order) == []
    push(order, 3, at=5.0 + MAX_WAITING_SECONDS)
    assert drain(order) == [missing(0, 1), "1/1", "1/2", "1/3"]


def test_give_up_releases_all_waiting_chunks() -> None:
    order = ChunkOrder[str]()
    for n in (0, 2, 4):
        push(order, n)
    order.give_up()
    assert drain(order) == ["1/0", missing(1, 1), "1/2", missing(3, 1), "1/4"]
    assert order.waiting_since is None


def test_a_new_session_ends_the_earlier_one_and_begins_at_zero() -> None:
    order = ChunkOrder[str]()
    push(order, 0)
    push(order, 2)
    push(order, 0, session=2)
    assert push(order, 1) is Arrival.STALE
    assert drain(order) == ["1/0", missing(1, 1), "1/2", "2/0"]


def test_sessions_may_begin_anew_with_lower_numbers() -> None:
    order = ChunkOrder[str]()
    push(order, 0, session=9000)
    assert order.push("5/0", session=Session(17, 5), sequence=0, append_seconds=0.0) is Arrival.TAKEN
    assert push(order, 1, session=9000) is Arrival.STALE
    assert drain(order) == ["9000/0", "5/0"]


def test_continues_in_the_middle_of_a_session() -> None:
    order = ChunkOrder[str](session=Session(0, 1), next_sequence=7)
    assert push(order, 6) is Arrival.DUPLICATE
    push(order, 7)
    assert drain(order) == ["1/7"]
