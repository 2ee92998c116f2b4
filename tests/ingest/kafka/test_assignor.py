"""ingest.kafka.assignor: shares each topic's partitions evenly, with few moves."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ingest.kafka.assignor import EachTopicEvenly

TOPICS = {"chunks": set(range(6)), "sources": set(range(6))}
CLUSTER = SimpleNamespace(
    partitions_for_topic=TOPICS.get, topics=lambda: set(TOPICS), available_partitions_for_topic=TOPICS.get
)


def member(name: str, owned: Mapping[str, Sequence[int]] | None = None) -> Any:
    parts = [SimpleNamespace(topic=topic, partitions=list(numbers)) for topic, numbers in (owned or {}).items()]
    metadata = SimpleNamespace(topics=sorted(TOPICS), owned_partitions=parts, generation_id=-1)
    return SimpleNamespace(member_id=name, metadata=metadata)


def share(*members: Any) -> dict[str, dict[str, list[int]]]:
    assignments = EachTopicEvenly().assign(CLUSTER, list(members))
    return {
        name: {part[0]: sorted(part[1]) for part in assignment.assigned_partitions}
        for name, assignment in assignments.items()
    }


def test_each_topic_is_shared_evenly() -> None:
    shares = share(member("a"), member("b"))
    for topic in TOPICS:
        assert sorted(shares["a"][topic] + shares["b"][topic]) == list(range(6))
        assert len(shares["a"][topic]) == 3


def test_a_new_member_gets_revoked_partitions_in_a_second_round() -> None:
    first = share(member("a", {topic: range(6) for topic in TOPICS}), member("b"))
    assert {topic: len(numbers) for topic, numbers in first["a"].items()} == {"chunks": 3, "sources": 3}
    assert first["b"] == {}, "no partition belongs to two members at once"
    second = share(member("a", first["a"]), member("b"))
    assert second["a"] == first["a"], "no other partition moves"
    assert {topic: len(numbers) for topic, numbers in second["b"].items()} == {"chunks": 3, "sources": 3}
