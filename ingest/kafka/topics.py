"""The topics: their names and settings; creates them and checks existing ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from ingest.config import KafkaConfig
from ingest.kafka.connection import broker_unavailable, connect, milliseconds, translate_errors
from ingest.kafka.record import MAX_RECORD_BYTES

State = Literal["created", "exists", "missing", "differs", "grown"]

# Latency and the order of deletions are computed from the broker's clock.
LOG_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
LARGE = {"max.message.bytes": str(MAX_RECORD_BYTES)}
DELETE = {"cleanup.policy": "delete"}
COMPACT = {"cleanup.policy": "compact"}
# Compaction skips the newest log segment. Checkpoints are written all the time, so this segment must stay small.
SMALL_SEGMENTS = {"segment.bytes": str(16 << 20)}
# A worker that has not learnt that it lost its partition can send a checkpoint older than its successor's. Compaction
# keeps both for ten minutes, longer than such a worker lives.
LATE_COMPACTION = {"min.compaction.lag.ms": "600000"}


class Topics:
    """The names of the topics."""

    def __init__(self, prefix: str) -> None:
        self.chunks = f"{prefix}.chunks"  # pieces of live streams
        self.sources = f"{prefix}.sources"  # requests to ingest whole files
        self.segments = f"{prefix}.segments"  # segments with embeddings, made of chunks and sources
        self.deletions = f"{prefix}.deletions"  # requests to delete videos
        self.settings = f"{prefix}.settings"  # settings that hold for all servers, such as how long videos are kept
        self.checkpoints = f"{prefix}.checkpoints"  # where another worker can continue each stream
        self.deadletter = f"{prefix}.deadletter"  # records that could not be processed
        self.events = f"{prefix}.events"  # moderation events

    def work(self) -> tuple[str, ...]:
        """Return the topics whose partitions workers share, in the order in which they must grow."""
        return self.checkpoints, self.sources, self.chunks

    def configs(self) -> dict[str, dict[str, str]]:
        """Return the settings of each topic, by Kafka's names."""
        return {
            self.chunks: DELETE | LOG_APPEND_TIME | LARGE,
            self.sources: DELETE | LOG_APPEND_TIME,
            self.segments: COMPACT | LOG_APPEND_TIME | LARGE,
            self.deletions: COMPACT | LOG_APPEND_TIME,
            self.settings: COMPACT | LOG_APPEND_TIME,
            self.checkpoints: COMPACT | LOG_APPEND_TIME | SMALL_SEGMENTS | LATE_COMPACTION,
            self.deadletter: DELETE | LOG_APPEND_TIME | LARGE,
            self.events: DELETE | LOG_APPEND_TIME,
        }


@dataclass(frozen=True, slots=True)
class TopicOutcome:
    """The state of one topic after creating or checking it."""

    name: str
    state: State
    differences: tuple[str, ...] = ()  # "cleanup.policy is delete, not compact"


def create_topics(config: KafkaConfig) -> list[TopicOutcome]:
    """Create the missing topics. Existing topics are not changed, only checked.

    Raises:
        BrokerUnavailable: If no broker answers in time, or none lets us create topics.
    """
    with translate_errors(config), _admin(config) as admin:
        outcomes = {outcome.name: outcome for outcome in _check_topics(admin, config)}
        configs = Topics(config.topic_prefix).configs()
        missing = [name for name, outcome in outcomes.items() if outcome.state == "missing"]
        for name in missing:
            new = NewTopic(name, config.partition_count, config.replication_factor, topic_configs=configs[name])
            try:
                admin.create_topics([new])
            except TopicAlreadyExistsError:
                continue  # another process was faster
            outcomes[name] = TopicOutcome(name, "created")
        if missing:
            admin.wait_for_topics(missing, timeout_ms=milliseconds(config.bootstrap_timeout_seconds))
    return [
        TopicOutcome(name, "exists") if outcome.state == "missing" else outcome for name, outcome in outcomes.items()
    ]


def grow_topics(
    config: KafkaConfig, partition_count: int, before_growth: Callable[[], None] = lambda: None
) -> list[TopicOutcome]:
    """Add partitions to the topics whose partitions workers share, up to a count. Checkpoints first: chunks need them.

    Topics that hold the last record of each key stay as they are: their keys must not move.

    Args:
        before_growth: Called before anything changes, if chunks get partitions. What it raises prevents the growth.
    Raises:
        ValueError: If one of the topics is missing, or has more partitions already. Then nothing is changed.
        BrokerUnavailable: If no broker answers in time, or none lets us change topics.
    """
    outcomes = []
    with translate_errors(config), _admin(config) as admin:
        names = Topics(config.topic_prefix).work()
        counts = {one["name"]: len(one["partitions"]) for one in admin.describe_topics(list(names))}
        for name in names:
            if not counts.get(name):
                raise ValueError(f"there is no topic {name}: `kinodex topics` makes the topics")
            if counts[name] > partition_count:
                raise ValueError(f"{name} has {counts[name]} partitions: Kafka can add partitions, and remove none")
        if counts[Topics(config.topic_prefix).chunks] < partition_count:
            before_growth()
        for name in names:
            if counts[name] < partition_count:
                admin.create_partitions({name: partition_count})
            outcomes.append(TopicOutcome(name, "grown" if counts[name] < partition_count else "exists"))
    return outcomes


def describe_topics(config: KafkaConfig) -> list[TopicOutcome]:
    """Check whether each topic exists and has the settings that it must have.

    Raises:
        BrokerUnavailable: If no broker answers in time.
    """
    with translate_errors(config), _admin(config) as admin:
        return _check_topics(admin, config)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """What a cluster of brokers is, and the state of our topics on it."""

    broker_count: int
    version: tuple[int, ...]  # of Kafka, as its protocol shows it: at least this one
    topics: list[TopicOutcome]


def describe_cluster(config: KafkaConfig) -> ClusterState:
    """Ask the brokers for their count and version, and check the topics.

    Raises:
        BrokerUnavailable: If no broker answers in time.
    """
    with translate_errors(config):
        admin, net_client = connect(
            config, KafkaAdminClient, request_timeout_ms=milliseconds(config.bootstrap_timeout_seconds)
        )
        with admin:
            return ClusterState(
                broker_count=len(admin.describe_cluster()["brokers"]),
                version=tuple(net_client.get_broker_version()),
                topics=_check_topics(admin, config),
            )


def _admin(config: KafkaConfig) -> KafkaAdminClient:
    admin, _ = connect(config, KafkaAdminClient, request_timeout_ms=milliseconds(config.bootstrap_timeout_seconds))
    return admin


def _check_topics(admin: KafkaAdminClient, config: KafkaConfig) -> list[TopicOutcome]:
    wanted = Topics(config.topic_prefix).configs()
    partition_counts: dict[str, int] = {}
    for topic in admin.describe_topics(list(wanted)):
        error = for_code(topic["error_code"])
        if topic["error_code"] == 0:
            partition_counts[topic["name"]] = len(topic["partitions"])
        elif error is not UnknownTopicOrPartitionError:
            raise broker_unavailable(config.servers, error(), topic["name"])
    existing = [ConfigResource(ConfigResourceType.TOPIC, name) for name in partition_counts]
    configs = admin.describe_configs(existing, config_filter="all")["topic"] if existing else {}
    outcomes = []
    for name, settings in wanted.items():
        if name not in partition_counts:
            outcomes.append(TopicOutcome(name, "missing"))
            continue
        differences = _compare_settings(settings, configs[name])
        if name in Topics(config.topic_prefix).work() and partition_counts[name] != config.partition_count:
            differences = (*differences, f"it has {partition_counts[name]} partitions, not {config.partition_count}")
        outcomes.append(TopicOutcome(name, "differs" if differences else "exists", differences))
    return outcomes


def _compare_settings(wanted: Mapping[str, str], actual: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """List the settings that differ. A larger max.message.bytes is no difference, nor is any segment.bytes."""
    differences = []
    for name, value in wanted.items():
        has = str(actual.get(name, {}).get("value"))
        if name == "max.message.bytes" and has.isdecimal() and int(has) >= int(value):
            continue
        if name != "segment.bytes" and has != value:
            differences.append(f"{name} is {has}, not {value}")
    return tuple(differences)
