"""ServerMetrics, the Prometheus metrics of `kinodex serve`.

Labels have few values: never a video, a stream or a caller. Prometheus sees a counter's name with `_total`.
"""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Upper bounds of histogram buckets, in seconds: from a cached answer on a small library to a slow deadline.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServerMetrics:
    """Metrics of a server. Each object has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, buckets=BUCKETS, registry=self.registry)
        self.calls = counter("kinodex_calls", "Calls that ended, by gRPC status code.", ["method", "code"])
        self.call_seconds = histogram("kinodex_call_seconds", "Duration of calls.", ["method"])
        self.calls_in_flight = gauge("kinodex_calls_in_flight", "Calls in progress.")
        self.queries_waiting = gauge("kinodex_queries_waiting", "Questions that wait for a free query worker.")
        self.jobs = gauge("kinodex_jobs", "Videos waiting to be indexed, being indexed or failed, by state.", ["state"])
        self.uploaded_bytes = counter("kinodex_uploaded_bytes", "Bytes received in uploads.")
        self.spool_bytes = gauge("kinodex_spool_bytes", "Bytes of uploads that wait to be indexed.")
        self.index_rows = gauge("kinodex_index_rows", "Vectors in the index, by kind of row.", ["kind"])
        self.videos = gauge("kinodex_videos", "Videos that questions search.")
        self.frame_cache_bytes = gauge("kinodex_frame_cache_bytes", "Bytes of frame vectors in memory.")
        self.frames_read_again_bytes = gauge(
            "kinodex_frames_read_again_bytes",
            "Bytes of frame vectors read again because server.frame_cache_bytes had no room, since the start.",
        )
        self.freshness_seconds = histogram(
            "kinodex_freshness_seconds", "Time from a video's last row in the catalog until questions find it."
        )
        self.events = counter("kinodex_events", "Changes of moderation events, by their new state.", ["state"])
        self.events_untold = gauge(
            "kinodex_events_untold",
            "Changes of moderation events not yet delivered to a sink (kafka or webhook), at most.",
            ["sink"],
        )
        self.dead_letter_bytes = gauge(
            "kinodex_webhook_dead_letter_bytes",
            "Size of DIR/webhook-deadletters.jsonl: events that the webhook never accepted.",
        )
        self.audit_acts = counter(
            "kinodex_audit_acts", "Acts for server.audit_log, by outcome: written, or lost.", ["outcome"]
        )
        for outcome in ("written", "lost"):  # there from the start, so that an alert sees the first loss
            self.audit_acts.labels(outcome)
        self.is_ready = gauge("kinodex_ready", "1 while the server answers questions.")
        self.live = LiveMetrics(self.registry)


class LiveMetrics:
    """Metrics of the live videos that a server reads from Kafka."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, buckets=BUCKETS, registry=registry)
        self.is_broker_up = gauge("kinodex_broker_up", "1 while Kafka answers.")
        self.lag = gauge("kinodex_kafka_lag", "Records not read yet.", ["topic", "partition"])
        self.records = counter("kinodex_kafka_records", "Records read, by outcome.", ["topic", "outcome"])
        self.batch_seconds = histogram(
            "kinodex_kafka_batch_seconds", "Time to write a batch of records to the catalog.", buckets=BUCKETS
        )
        self.searchable_seconds = histogram(
            "kinodex_chunk_to_searchable_seconds",
            "Time from the append of a chunk to Kafka until questions find it, provisional or final.",
            ["final"],
            buckets=(*BUCKETS, 120.0, 300.0),
        )
        self.videos = gauge("kinodex_live_videos", "Live videos that have not ended.")
        self.watermark_age_seconds = gauge(
            "kinodex_watermark_age_seconds", "Longest time for which the watermark of a live video has not moved."
        )
        self.deletions = counter(
            "kinodex_live_deletions", "Deletions of live videos that callers asked this server for."
        )
        self.pruned = counter("kinodex_pruned_segments", "Segments of live videos deleted here by retention.")
        self.prune_seconds = histogram("kinodex_prune_seconds", "Time to delete some old segments.")
        self.tombstones = counter("kinodex_tombstones", "Tombstones of segments written to Kafka.")
