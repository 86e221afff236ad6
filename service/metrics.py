"""Figures for Prometheus: requests by route and status, their seconds, and the state of the queue when scraped.

In: one observation per request; the counts in Redis at each scrape. Out: the text of /metrics. A Redis that does not
answer is a figure (`espalier_state_up 0`), not an error. Each app has a registry of its own.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from schemas.errors import EspalierError
from state.records import StateCounts

# A method is a caller's word; as a label it must not be able to grow without end.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class Metrics:
    def __init__(self, counts: Callable[[], StateCounts]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "espalier_http_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "espalier_http_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("route",),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_StateCollector(counts))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request. `route` is the route's template, so that ids do not become labels."""
        self._requests.labels(method if method in METHODS else "OTHER", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _StateCollector:
    """Asks Redis when Prometheus asks us."""

    def __init__(self, counts: Callable[[], StateCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("espalier_state_up", "Whether Redis answers.")
        try:
            counts = self._counts()
        except EspalierError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        queued = GaugeMetricFamily("espalier_jobs_queued", "Jobs that wait, by queue.", labels=["queue"])
        for queue, number in counts.queued.items():
            queued.add_metric([queue], number)
        yield queued
        yield GaugeMetricFamily("espalier_jobs_running", "Jobs that run.", value=counts.running)
        finished = CounterMetricFamily("espalier_jobs_finished", "Jobs that ended, by state.", labels=["state"])
        for state, number in counts.finished.items():
            finished.add_metric([state], number)
        yield finished
        yield CounterMetricFamily("espalier_jobs_submitted", "Jobs taken on.", value=counts.submitted)
        yield CounterMetricFamily("espalier_jobs_restarted", "Starts lost to silent workers.", value=counts.restarted)
