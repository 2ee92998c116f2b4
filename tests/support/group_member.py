"""A member of a group that reads chunks, in a process of its own: python group_member.py SERVER PREFIX GROUP.

It prints what it is told of its partitions, and "steady" when it is told nothing more for a while.
"""

import logging
import sys

from ingest.config import KafkaConfig
from ingest.kafka import GroupConsumer, PartitionId, Topics

logging.getLogger("kafka").setLevel(logging.CRITICAL)
STEADY_POLLS = 10


polls = 0


def say(what: str, places: list[PartitionId]) -> None:
    global polls
    polls = 0
    print(what, *(partition for _, partition in places), flush=True)


def main() -> None:
    global polls
    server, prefix, group = sys.argv[1:]
    consumer = GroupConsumer(
        KafkaConfig(servers=(server,), topic_prefix=prefix, session_timeout_seconds=3),
        [Topics(prefix).chunks],
        group=group,
        on_assigned=lambda places: say("assigned", places),
        on_revoked=lambda places: say("revoked", places),
        on_lost=lambda places: say("lost", places),
    )
    while True:
        consumer.poll(0.1)
        polls += 1
        if polls == STEADY_POLLS and consumer.assignment():
            print("steady", flush=True)


if __name__ == "__main__":
    main()
