"""Our families as a prometheus_client collector.

The daemon renders its page itself (:mod:`tpw.exposition.render`); the collector is for whoever embeds the exporter in a
registry of their own, and holds the renderer to the library's bytes in a test.
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
    """A collector over whatever snapshot is current. ``describe`` comes from the catalogue, so collisions with other
    collectors are seen at registration and ``name[]`` filters work.

    Args:
        get_snapshot: the snapshot to show.
        drops: where to count samples that must not leave; without it they raise, and the scrape fails.
    """

    def __init__(self, get_snapshot: Callable[[], Snapshot], drops: Drops | None = None) -> None:
        self._get_snapshot = get_snapshot
        self._drops = drops

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Every family there can be, without samples."""
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
