"""Our families as a prometheus_client collector, and the process families of prometheus_client for our page.

The daemon renders its page itself (:mod:`tpw.exposition.render`); the collector is for whoever embeds the exporter in a
registry of their own, and holds the renderer to the library's bytes in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from tpw.exposition.catalogue import CATALOGUE, Kind, Metric
from tpw.exposition.families import Drops, families
from tpw.exposition.render import END_OF_OPENMETRICS, Format, encodable
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


class ProcessTail:
    """``process_*`` of this process, by prometheus_client's collector on a registry of its own.

    Reads /proc/self, which is the kernel's memory: no device, no network. A family that cannot be read is left out.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(proc=proc, registry=self._registry)

    def __call__(self, form: Format, names: Container[str] | None) -> bytes:
        """The families in a format, without the end mark of OpenMetrics."""
        source = _Filtered(self._registry, names)
        if form is Format.OPENMETRICS:
            page: bytes = generate_openmetrics(source)  # type: ignore[no-untyped-call]
            return page.removesuffix(END_OF_OPENMETRICS)
        return generate_latest(source)


class _Filtered(Collector):
    """The families of a registry whose sample names are wanted."""

    def __init__(self, registry: CollectorRegistry, names: Container[str] | None) -> None:
        self._registry = registry
        self._names = names

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Families with at least one wanted sample."""
        for family in self._registry.collect():
            if self._names is not None:
                family.samples = [sample for sample in family.samples if sample.name in self._names]
            if family.samples:
                yield family  # type: ignore[misc]
