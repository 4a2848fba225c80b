"""The metric families as a prometheus_client collector, for embedding in a registry of your own.

The daemon renders its page itself (:mod:`tpw.exposition.render`); a test compares the bytes of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tpw.exposition.catalogue import CATALOGUE, Kind, Metric
from tpw.exposition.families import Drops, families
from tpw.exposition.render import encodable
from tpw.snapshot import Snapshot


class SnapshotCollector(Collector):
    """Collects the current snapshot. ``describe`` lists the whole catalogue, so that the registry detects collisions with
    other collectors and ``name[]`` filters work.

    Args:
        get_snapshot: returns the current snapshot.
        drops: where to count invalid samples; without it they raise, and the scrape fails.
    """

    def __init__(self, get_snapshot: Callable[[], Snapshot], drops: Drops | None = None) -> None:
        self._get_snapshot = get_snapshot
        self._drops = drops

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Every family of the catalogue, without samples."""
        for metric in CATALOGUE:
            yield _family(metric)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The families of the current snapshot."""
        for metric, samples in families(self._get_snapshot(), self._drops):
            family = _family(metric)
            for labels, value in samples:
                family.add_metric([encodable(label) for label in labels], value)
            yield family


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    if metric.kind is Kind.COUNTER:
        return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
