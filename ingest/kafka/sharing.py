"""How the members of a group share the partitions: those of each topic evenly, and as few moves as can be."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment


class EachTopicEvenly(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's cooperative sticky assignor, topic by topic.

    Over all topics at once it counts partitions alone: of two members one would get all streams, and the other all of a
    topic on which nothing comes.
    """

    name = "cooperative-sticky-each-topic"

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:
        """Return what each member gets, in two rounds where a partition moves."""
        shares: dict[str, list[Any]] = {member.member_id: [] for member in members}
        for topic in sorted({topic for member in members for topic in member.metadata.topics}):
            found = super().assign(cluster, [_of_topic(member, topic) for member in members])
            for member_id, assignment in found.items():
                shares[member_id] += assignment.assigned_partitions
        return {member_id: ConsumerProtocolAssignment(self.version, share, b"") for member_id, share in shares.items()}


def _of_topic(member: Any, topic: str) -> SimpleNamespace:
    """Return a member as if there were no other topic."""
    metadata = member.metadata
    return SimpleNamespace(
        member_id=member.member_id,
        metadata=SimpleNamespace(
            topics=[one for one in metadata.topics if one == topic],
            owned_partitions=[one for one in metadata.owned_partitions or () if one.topic == topic],
            generation_id=metadata.generation_id,
        ),
    )
