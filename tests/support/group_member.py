"""A group member that reads chunks in its own process: python group_member.py SERVER PREFIX GROUP.

It prints a line for each callback, with the partitions, and "steady" once no callback has come for a while.
"""

import logging
import sys

from ingest.config import KafkaConfig
from ingest.kafka import GroupConsumer, PartitionId, Topics

logging.getLogger("kafka").setLevel(logging.CRITICAL)
STEADY_POLLS = 10
SESSION_SECONDS = 8  # a slow machine must send a heartbeat within this time; tests wait for it after a kill


polls = 0


def say(event: str, partitions: list[PartitionId]) -> None:
    global polls
    polls = 0
    print(event, *(number for _, number in partitions), flush=True)


def main() -> None:
    global polls
    server, prefix, group = sys.argv[1:]
    consumer = GroupConsumer(
        KafkaConfig(
            servers=(server,),
            topic_prefix=prefix,
            session_timeout_seconds=SESSION_SECONDS,
            bootstrap_timeout_seconds=60,
        ),
        [Topics(prefix).chunks],
        group=group,
        on_assigned=lambda partitions: say("assigned", partitions),
        on_revoked=lambda partitions: say("revoked", partitions),
        on_lost=lambda partitions: say("lost", partitions),
    )
    while True:
        consumer.poll(0.1)
        polls += 1
        if polls == STEADY_POLLS and consumer.assignment():
            print("steady", flush=True)


if __name__ == "__main__":
    main()
