"""ServerMetrics, the Prometheus metrics of `kinodex serve`, and the HTTP endpoint that shows metrics.

Labels have few values: never a video, a stream or a caller.
"""

import logging
import threading
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from serve.config import host_and_port

logger = logging.getLogger(__name__)

# Upper bounds of histogram buckets, in seconds: from a cached answer on a small library to a slow deadline.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServerMetrics:
    """Metrics of a server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "kinodex_calls", "Calls that ended, by gRPC status code.", ["method", "code"], registry=self.registry
        )  # kinodex_calls_total
        self.call_seconds = Histogram(
            "kinodex_call_seconds", "Duration of calls.", ["method"], buckets=BUCKETS, registry=self.registry
        )
        self.calls_in_flight = Gauge("kinodex_calls_in_flight", "Calls in progress.", registry=self.registry)
        self.queries_waiting = Gauge(
            "kinodex_queries_waiting", "Questions that wait for a free query worker.", registry=self.registry
        )
        self.jobs = Gauge(
            "kinodex_jobs",
            "Videos waiting to be indexed, being indexed or failed, by state.",
            ["state"],
            registry=self.registry,
        )
        self.uploaded_bytes = Counter(
            "kinodex_uploaded_bytes", "Bytes received in uploads.", registry=self.registry
        )  # kinodex_uploaded_bytes_total
        self.spool_bytes = Gauge(
            "kinodex_spool_bytes", "Bytes of uploads that wait to be indexed.", registry=self.registry
        )
        self.index_rows = Gauge(
            "kinodex_index_rows", "Vectors in the index, by kind of row.", ["kind"], registry=self.registry
        )
        self.videos = Gauge("kinodex_videos", "Videos that questions search.", registry=self.registry)
        self.frame_cache_bytes = Gauge(
            "kinodex_frame_cache_bytes", "Bytes of frame vectors in memory.", registry=self.registry
        )
        self.freshness_seconds = Histogram(
            "kinodex_freshness_seconds",
            "Time from a video's last row in the catalog until questions find it.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.events = Counter(
            "kinodex_events", "Changes of moderation events, by their new state.", ["state"], registry=self.registry
        )  # kinodex_events_total
        self.events_untold = Gauge(
            "kinodex_events_untold",
            "Changes of moderation events not yet delivered to a sink (kafka or webhook), at most.",
            ["sink"],
            registry=self.registry,
        )
        self.dead_letter_bytes = Gauge(
            "kinodex_webhook_dead_letter_bytes",
            "Size of DIR/webhook-deadletters.jsonl: events that the webhook never accepted.",
            registry=self.registry,
        )
        self.is_ready = Gauge("kinodex_ready", "1 while the server answers questions.", registry=self.registry)
        self.live = LiveMetrics(self.registry)

    def serve(self, listen: str) -> tuple[str, Callable[[], None]]:
        """Show the metrics at HOST:PORT; see serve_metrics."""
        return serve_metrics(self.registry, listen)


def serve_metrics(registry: CollectorRegistry, listen: str) -> tuple[str, Callable[[], None]]:
    """Show metrics over HTTP at HOST:PORT, in a thread; return their URL and a function that stops it.

    Raises:
        SettingsError: If `listen` is no such address.
        OSError: If the address cannot be used.
    """
    host, port = host_and_port(listen)
    http: WSGIServer
    thread: threading.Thread
    http, thread = start_http_server(port, addr=host, registry=registry)
    address = f"http://{host}:{http.server_port}/metrics"
    logger.info("metrics served address=%s", address)

    def close() -> None:
        http.shutdown()
        http.server_close()
        thread.join()

    return address, close


class LiveMetrics:
    """Metrics of a server's live videos, which it reads from Kafka."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.is_broker_up = Gauge("kinodex_broker_up", "1 while Kafka answers.", registry=registry)
        self.lag = Gauge("kinodex_kafka_lag", "Records not read yet.", ["topic", "partition"], registry=registry)
        self.records = Counter(
            "kinodex_kafka_records", "Records read, by outcome.", ["topic", "outcome"], registry=registry
        )  # kinodex_kafka_records_total
        self.batch_seconds = Histogram(
            "kinodex_kafka_batch_seconds",
            "Time to write a batch of records to the catalog.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.searchable_seconds = Histogram(
            "kinodex_chunk_to_searchable_seconds",
            "Time from the append of a chunk to Kafka until questions find it, provisional or final.",
            ["final"],
            buckets=(*BUCKETS, 120.0, 300.0),
            registry=registry,
        )
        self.videos = Gauge("kinodex_live_videos", "Live videos that have not ended.", registry=registry)
        self.watermark_age_seconds = Gauge(
            "kinodex_watermark_age_seconds",
            "Time since the watermark last moved, of the live video where that is longest ago.",
            registry=registry,
        )
        self.deletions = Counter(
            "kinodex_live_deletions", "Deletions of live videos that callers asked this server for.", registry=registry
        )  # kinodex_live_deletions_total
        self.pruned = Counter(
            "kinodex_pruned_segments", "Segments of live videos deleted by server.retention.", registry=registry
        )  # kinodex_pruned_segments_total
        self.prune_seconds = Histogram(
            "kinodex_prune_seconds", "Time to delete some old segments.", buckets=BUCKETS, registry=registry
        )
        self.tombstones = Counter(
            "kinodex_tombstones", "Tombstones of segments written to Kafka.", registry=registry
        )  # kinodex_tombstones_total
