"""What the server counts, for Prometheus. Labels have few values: never a video, a stream or a caller."""

import logging
import threading
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from serve.config import host_and_port

logger = logging.getLogger(__name__)

# Seconds: from a cached answer on a small library to a slow deadline.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServerMetrics:
    """One server's counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "kinodex_calls", "Calls that ended.", ["method", "code"], registry=self.registry
        )  # kinodex_calls_total
        self.call_seconds = Histogram(
            "kinodex_call_seconds", "How long calls took.", ["method"], buckets=BUCKETS, registry=self.registry
        )
        self.calls_in_flight = Gauge("kinodex_calls_in_flight", "Calls under way.", registry=self.registry)
        self.queries_waiting = Gauge(
            "kinodex_queries_waiting", "Questions that wait for a worker.", registry=self.registry
        )
        self.jobs = Gauge("kinodex_jobs", "Videos on their way in, by state.", ["state"], registry=self.registry)
        self.uploaded_bytes = Counter(
            "kinodex_uploaded_bytes", "Bytes of uploads taken in.", registry=self.registry
        )  # kinodex_uploaded_bytes_total
        self.spool_bytes = Gauge("kinodex_spool_bytes", "Uploads that wait to be indexed.", registry=self.registry)
        self.index_rows = Gauge("kinodex_index_rows", "Vectors in the index.", ["kind"], registry=self.registry)
        self.videos = Gauge("kinodex_videos", "Videos that are found by questions.", registry=self.registry)
        self.frame_cache_bytes = Gauge(
            "kinodex_frame_cache_bytes", "Frame vectors kept in memory.", registry=self.registry
        )
        self.freshness_seconds = Histogram(
            "kinodex_freshness_seconds",
            "From a video's last row in the catalog to its being found.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.events = Counter(
            "kinodex_events", "Changes of moderation events, by what happened.", ["state"], registry=self.registry
        )  # kinodex_events_total
        self.events_untold = Gauge(
            "kinodex_events_untold", "Changes that a sink is still to be told.", ["sink"], registry=self.registry
        )
        self.dead_letter_bytes = Gauge(
            "kinodex_webhook_dead_letter_bytes", "Events that the webhook never took.", registry=self.registry
        )
        self.is_ready = Gauge("kinodex_ready", "1 while questions are answered.", registry=self.registry)
        self.live = LiveMetrics(self.registry)

    def serve(self, listen: str) -> tuple[str, Callable[[], None]]:
        """Answer HTTP at HOST:PORT; see serve_metrics."""
        return serve_metrics(self.registry, listen)


def serve_metrics(registry: CollectorRegistry, listen: str) -> tuple[str, Callable[[], None]]:
    """Answer HTTP at HOST:PORT, from a thread; return where, and what ends it.

    Raises:
        SettingsError: If it is no such address.
        OSError: If the address cannot be had.
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
    """What a server counts of the live videos it takes from Kafka."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.is_broker_up = Gauge("kinodex_broker_up", "1 while Kafka answers.", registry=registry)
        self.lag = Gauge(
            "kinodex_kafka_lag", "Records not read yet, by partition.", ["topic", "partition"], registry=registry
        )
        self.records = Counter(
            "kinodex_kafka_records", "Records read, by what became of them.", ["topic", "outcome"], registry=registry
        )  # kinodex_kafka_records_total
        self.batch_seconds = Histogram(
            "kinodex_kafka_batch_seconds",
            "How long it took to take a batch of records over.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.searchable_seconds = Histogram(
            "kinodex_chunk_to_searchable_seconds",
            "From a chunk's being appended to its being found: first provisionally, later as it stays.",
            ["final"],
            buckets=(*BUCKETS, 120.0, 300.0),
            registry=registry,
        )
        self.videos = Gauge("kinodex_live_videos", "Live videos that have not ended.", registry=registry)
        self.watermark_age_seconds = Gauge(
            "kinodex_watermark_age_seconds",
            "How long ago the watermark last moved of the live video where it is longest ago.",
            registry=registry,
        )
        self.deletions = Counter(
            "kinodex_live_deletions", "Deletions of live videos that this server was asked for.", registry=registry
        )  # kinodex_live_deletions_total
        self.pruned = Counter(
            "kinodex_pruned_segments", "Segments of live videos that were kept long enough.", registry=registry
        )  # kinodex_pruned_segments_total
        self.prune_seconds = Histogram(
            "kinodex_prune_seconds", "How long it took to prune a few.", buckets=BUCKETS, registry=registry
        )
        self.tombstones = Counter(
            "kinodex_tombstones", "Segments that Kafka was told to forget.", registry=registry
        )  # kinodex_tombstones_total
