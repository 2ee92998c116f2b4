"""WorkerMetrics, the Prometheus metrics of `kinodex worker`. Labels have few values: never a stream or a video."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Upper bounds of histogram buckets. Stages in seconds: from one small batch to a long file. Latencies in seconds.
STAGE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LATENCY_BUCKETS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0)
FILL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


class WorkerMetrics:
    """Metrics of a worker. Each object has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.records = counter(
            "kinodex_worker_records",
            "Records read: taken, duplicate, stale, shed, reset, or the reason of their dead letter.",
            ["outcome"],
        )
        for outcome in (
            "taken",
            "duplicate",
            "stale",
            "shed",
            "reset",
        ):  # the other outcomes are reasons of dead letters
            self.records.labels(outcome)
        self.lag = gauge(
            "kinodex_worker_lag", "Records of the worker's partitions not read yet.", ["topic", "partition"]
        )
        self.streams = gauge("kinodex_worker_streams", "Open streams.")
        self.watermark_age_seconds = gauge(
            "kinodex_worker_watermark_age_seconds",
            "Length of media that is not final yet, of the stream where it is longest.",
        )
        self.in_flight = gauge("kinodex_worker_in_flight", "Chunks taken and not encoded yet.")
        self.is_paused = gauge("kinodex_worker_paused", "1 while the worker takes no records.")
        self.stage_seconds = histogram(
            "kinodex_worker_stage_seconds",
            "Time to decode a chunk, to encode or transcribe a batch, and to read the text in the pictures of a chunk.",
            ["stage"],
            buckets=STAGE_BUCKETS,
        )
        self.batch_fill = histogram(
            "kinodex_worker_batch_fill",
            "Items of a batch, as a share of the largest batch.",
            ["stage"],
            buckets=FILL_BUCKETS,
        )
        self.segments = counter("kinodex_worker_segments", "Segments published, provisional or final.", ["finality"])
        self.publish_latency_seconds = histogram(
            "kinodex_worker_publish_latency_seconds",
            "Time from the append of a chunk until the segment with its pictures is sent.",
            buckets=LATENCY_BUCKETS,
        )
