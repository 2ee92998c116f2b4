"""Shares partitions among the members of a group: each topic evenly, and with few moves."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment


class EachTopicEvenly(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's cooperative sticky assignor, applied to one topic at a time.

    Applied to all topics at once, it only evens out the total count: one member could get all streams, and another all
    partitions of an idle topic.
    """

    name = "cooperative-sticky-each-topic"

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:
        """Return each member's partitions. One that moves belongs to no member now, and moves in a second round."""
        shares: dict[str, list[Any]] = {member.member_id: [] for member in members}
        for topic in sorted({topic for member in members for topic in member.metadata.topics}):
            assignments = super().assign(cluster, [_only_topic(member, topic) for member in members])
            for member_id, assignment in assignments.items():
                shares[member_id] += assignment.assigned_partitions
        return {member_id: ConsumerProtocolAssignment(self.version, share, b"") for member_id, share in shares.items()}


def _only_topic(member: Any, topic: str) -> SimpleNamespace:
    metadata = member.metadata
    return SimpleNamespace(
        member_id=member.member_id,
        metadata=SimpleNamespace(
            topics=[each for each in metadata.topics if each == topic],
            owned_partitions=[each for each in metadata.owned_partitions or () if each.topic == topic],
            generation_id=metadata.generation_id,
        ),
    )
