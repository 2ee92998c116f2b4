"""ingest.kafka.sharing: each topic's partitions are shared evenly, and what stays where it is is not moved."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ingest.kafka.sharing import EachTopicEvenly

TOPICS = {"chunks": set(range(6)), "sources": set(range(6))}
CLUSTER = SimpleNamespace(
    partitions_for_topic=TOPICS.get, topics=lambda: set(TOPICS), available_partitions_for_topic=TOPICS.get
)


def member(name: str, owned: Mapping[str, Sequence[int]] | None = None) -> Any:
    parts = [SimpleNamespace(topic=topic, partitions=list(numbers)) for topic, numbers in (owned or {}).items()]
    metadata = SimpleNamespace(topics=sorted(TOPICS), owned_partitions=parts, generation_id=-1)
    return SimpleNamespace(member_id=name, metadata=metadata)


def shared(*members: Any) -> dict[str, dict[str, list[int]]]:
    found = EachTopicEvenly().assign(CLUSTER, list(members))
    return {
        name: {part[0]: sorted(part[1]) for part in assignment.assigned_partitions}
        for name, assignment in found.items()
    }


def test_each_topic_is_shared_evenly() -> None:
    found = shared(member("a"), member("b"))
    for topic in TOPICS:
        assert sorted(found["a"][topic] + found["b"][topic]) == list(range(6))
        assert len(found["a"][topic]) == 3


def test_a_newcomer_gets_what_the_others_give_up_in_a_second_round() -> None:
    first = shared(member("a", {topic: range(6) for topic in TOPICS}), member("b"))
    assert {topic: len(numbers) for topic, numbers in first["a"].items()} == {"chunks": 3, "sources": 3}
    assert first["b"] == {}, "nothing is two members' at once"
    second = shared(member("a", first["a"]), member("b"))
    assert second["a"] == first["a"], "what stays is not moved"
    assert {topic: len(numbers) for topic, numbers in second["b"].items()} == {"chunks": 3, "sources": 3}
