"""CacheCounts: a Prometheus collector for the hits and misses of the server's caches."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from encoders.batching import TextVectors
from serve.search.caches import SingleFlightCache


class CacheCounts(Collector):
    """Metrics of the caches of a server: text vectors and rankings. Each scrape reads the caches' counters."""

    def __init__(self, encoders: Callable[[], dict[str, TextVectors]], rankings: SingleFlightCache[Any]) -> None:
        self._encoders, self._rankings = encoders, rankings

    def collect(self) -> Iterator[CounterMetricFamily]:
        texts = CounterMetricFamily(
            "kinodex_texts",
            "Texts of questions, by whether their vector was in memory or was encoded.",
            labels=["encoder", "outcome"],
        )
        batches = CounterMetricFamily(
            "kinodex_text_batches", "Batches in which texts were encoded.", labels=["encoder"]
        )
        for name, vectors in self._encoders().items():
            texts.add_metric([name, "found"], vectors.found_count)
            texts.add_metric([name, "encoded"], vectors.encoded_count)
            batches.add_metric([name], vectors.batch_count)
        rankings = CounterMetricFamily(
            "kinodex_rankings",
            "Questions, by whether their ranking was still valid in memory or was computed.",
            labels=["outcome"],
        )
        rankings.add_metric(["found"], self._rankings.hit_count)
        rankings.add_metric(["ranked"], self._rankings.miss_count)
        yield from (texts, batches, rankings)
