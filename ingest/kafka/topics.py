"""The topics: their names, how they are made, and whether those that are there are as they must be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from ingest.config import KafkaConfig
from ingest.kafka.connection import as_ours, connect, milliseconds, translated
from ingest.kafka.record import MAX_RECORD_BYTES

State = Literal["created", "exists", "missing", "differs"]

LOG_APPEND_TIME = {
    "message.timestamp.type": "LogAppendTime"
}  # latency and deletions are reckoned by the broker's clock
LARGE = {"max.message.bytes": str(MAX_RECORD_BYTES)}
DELETE = {"cleanup.policy": "delete"}
COMPACT = {"cleanup.policy": "compact"}
# Compaction leaves the newest segment alone: of checkpoints, which are written all the time, a small one.
SMALL_SEGMENTS = {"segment.bytes": str(16 << 20)}
# A worker that does not know yet that it lost its partition may send a checkpoint older than its successor's: both are
# kept for as long as that may last.
LATE_COMPACTION = {"min.compaction.lag.ms": "600000"}


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of the topics."""

    prefix: str

    @property
    def chunks(self) -> str:
        """Pieces of live streams."""
        return f"{self.prefix}.chunks"

    @property
    def sources(self) -> str:
        """Whole files to be ingested."""
        return f"{self.prefix}.sources"

    @property
    def segments(self) -> str:
        """What was made of chunks and sources."""
        return f"{self.prefix}.segments"

    @property
    def deletions(self) -> str:
        """Videos that are to be forgotten."""
        return f"{self.prefix}.deletions"

    @property
    def checkpoints(self) -> str:
        """Where workers go on."""
        return f"{self.prefix}.checkpoints"

    @property
    def deadletter(self) -> str:
        """Records that could not be used."""
        return f"{self.prefix}.deadletter"

    @property
    def events(self) -> str:
        """What was seen that somebody asked to be told of."""
        return f"{self.prefix}.events"

    def configs(self) -> dict[str, dict[str, str]]:
        """Return the configuration of each topic, as Kafka writes it."""
        return {
            self.chunks: DELETE | LOG_APPEND_TIME | LARGE,
            self.sources: DELETE | LOG_APPEND_TIME,
            self.segments: COMPACT | LOG_APPEND_TIME | LARGE,
            self.deletions: COMPACT | LOG_APPEND_TIME,
            self.checkpoints: COMPACT | LOG_APPEND_TIME | SMALL_SEGMENTS | LATE_COMPACTION,
            self.deadletter: DELETE | LOG_APPEND_TIME | LARGE,
            self.events: DELETE | LOG_APPEND_TIME,
        }


@dataclass(frozen=True, slots=True)
class TopicOutcome:
    """What is to be said of one topic."""

    name: str
    state: State
    differences: tuple[str, ...] = ()  # "cleanup.policy is delete, not compact"


def create_topics(config: KafkaConfig) -> list[TopicOutcome]:
    """Make the topics that are not there. Those that are there stay as they are, and are told of.

    Raises:
        BrokerUnavailable: If no broker answers in time, or none lets us make topics.
    """
    with translated(config), _admin(config) as admin:
        found = {one.name: one for one in _described(admin, config)}
        configs = Topics(config.topic_prefix).configs()
        missing = [name for name, outcome in found.items() if outcome.state == "missing"]
        for name in missing:
            new = NewTopic(name, config.partition_count, config.replication_factor, topic_configs=configs[name])
            try:
                admin.create_topics([new])
            except TopicAlreadyExistsError:
                continue  # somebody else was faster
            found[name] = TopicOutcome(name, "created")
        if missing:
            admin.wait_for_topics(missing, timeout_ms=milliseconds(config.bootstrap_timeout_seconds))
    return [TopicOutcome(name, "exists") if one.state == "missing" else one for name, one in found.items()]


def describe_topics(config: KafkaConfig) -> list[TopicOutcome]:
    """Say of each topic whether it is there, and as it must be.

    Raises:
        BrokerUnavailable: If no broker answers in time.
    """
    with translated(config), _admin(config) as admin:
        return _described(admin, config)


def _admin(config: KafkaConfig) -> KafkaAdminClient:
    return connect(config, KafkaAdminClient, request_timeout_ms=milliseconds(config.bootstrap_timeout_seconds))


def _described(admin: KafkaAdminClient, config: KafkaConfig) -> list[TopicOutcome]:
    wanted = Topics(config.topic_prefix).configs()
    partition_counts: dict[str, int] = {}
    for topic in admin.describe_topics(list(wanted)):
        error = for_code(topic["error_code"])
        if topic["error_code"] == 0:
            partition_counts[topic["name"]] = len(topic["partitions"])
        elif error is not UnknownTopicOrPartitionError:
            raise as_ours(config.servers, error(), topic["name"])
    there = [ConfigResource(ConfigResourceType.TOPIC, name) for name in partition_counts]
    configs = admin.describe_configs(there, config_filter="all")["topic"] if there else {}
    outcomes = []
    for name, settings in wanted.items():
        if name not in partition_counts:
            outcomes.append(TopicOutcome(name, "missing"))
            continue
        differences = _differences(settings, configs[name])
        if partition_counts[name] != config.partition_count:
            differences = (*differences, f"it has {partition_counts[name]} partitions, not {config.partition_count}")
        outcomes.append(TopicOutcome(name, "differs" if differences else "exists", differences))
    return outcomes


def _differences(wanted: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Say what of a topic is not as it must be; to take larger records than it must is no difference."""
    differences = []
    for name, value in wanted.items():
        has = str(found.get(name, {}).get("value"))
        if name == "max.message.bytes" and has.isdecimal() and int(has) >= int(value):
            continue
        if name != "segment.bytes" and has != value:
            differences.append(f"{name} is {has}, not {value}")
    return tuple(differences)
