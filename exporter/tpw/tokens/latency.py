"""Reads the histograms of latencies of a server, as far as its targets need them.

Imported only for servers with targets. Of each histogram series three counts are used: up to the bound at or below the
target, up to the bound at or above it, and all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tpw.model import UNKNOWN_MODEL, Latency, LatencySeries, Phase, ServiceReading, Slo, label_text
from tpw.tokens.dialects import Dialect
from tpw.tokens.page import Page, head_of, labels_of

_HEADS_KEPT = 65536
"""Label sets that are kept parsed. Tuning: 200 models with three histograms of 40 buckets on two ranks."""


@dataclass(frozen=True, slots=True)
class _Head:
    """One parsed label set."""

    key: str
    """Of the series: name and labels without ``le`` and those of replicas."""
    replica: str
    """The same with those of replicas."""
    model: str | None
    bound: float
    """Of a bucket; NaN for a sum."""


@dataclass(slots=True)
class _Histogram:
    """The histogram of one target."""

    slo: Slo
    seconds: float
    candidates: tuple[str, ...]
    chosen: str = ""
    heads: dict[bytes, _Head | None] = field(default_factory=dict)


class LatencyReader:
    """Reads the pages of one server. Remembers the chosen histograms and the parsed label sets.

    Args:
        dialect: the engine's row.
        targets: seconds of each latency that has a target.
        model: the model's name if the series carry none; called at every read.
    """

    def __init__(self, dialect: Dialect, targets: Mapping[Slo, float], model: Callable[[], str] = lambda: "") -> None:
        names = {Slo.TTFT: dialect.ttft, Slo.TPOT: dialect.tpot, Slo.E2E: dialect.e2e}
        self._dialect = dialect
        self._model = model
        self._targets = tuple(sorted(targets.items()))
        self._histograms = [
            _Histogram(slo, seconds, tuple(prefix + name for name in names[slo] for prefix in dialect.prefixes))
            for slo, seconds in self._targets
        ]

    def read(self, page: Page, phase: Phase | None, *, has_served: bool) -> tuple[ServiceReading, str]:
        """The latencies on a page; and which targets cannot be counted and why, "" where all are.

        Args:
            page: the page.
            phase: of a prefill and decode pair.
            has_served: whether the server has counted anything: a histogram that is missing then is not to come.
        """
        found: list[LatencySeries] = []
        missing: list[str] = []
        for histogram in self._histograms:
            if not _is_of_requests(histogram.slo, phase):
                missing.append(f"{histogram.slo} of a {phase} instance is not that of its requests")
                continue
            series = self._series(page, histogram)
            found += series
            if not histogram.candidates:
                missing.append(f"{self._dialect.name} has no histogram of {histogram.slo} by request")
            elif not series and has_served:
                missing.append(f"the page has no histogram {histogram.candidates[0]} for {histogram.slo}")
        note = f"requests within targets of `slo` are not counted: {'; '.join(missing)}" if missing else ""
        return ServiceReading(self._targets, tuple(found), self._dialect.paired), note

    def _series(self, page: Page, histogram: _Histogram) -> list[LatencySeries]:
        lines = page.lines(f"{histogram.chosen}_bucket") if histogram.chosen else []
        if not lines:
            chosen = next((name for name in histogram.candidates if page.samples(f"{name}_bucket")), "")
            if not chosen:
                return []
            histogram.chosen = chosen
            histogram.heads.clear()
            lines = page.lines(f"{chosen}_bucket")
        replicas: dict[str, tuple[_Head, dict[float, float]]] = {}
        for raw, value in lines:
            head = self._head(histogram, raw)
            if head is not None:
                replicas.setdefault(head.replica, (head, {}))[1][head.bound] = value
        sums = ((self._head(histogram, raw), value) for raw, value in page.lines(f"{histogram.chosen}_sum"))
        seconds = {head.replica: value for head, value in sums if head is not None}
        series: dict[str, LatencySeries] = {}
        for replica, (head, counts) in replicas.items():
            latency = _latency(counts, histogram.seconds, seconds.get(replica, 0.0))
            model = label_text(head.model or self._model() or UNKNOWN_MODEL)
            known = series.get(head.key)
            # Of replicas the one that has counted most.
            if latency is not None and (known is None or known.value.requests < latency.requests):
                series[head.key] = LatencySeries(histogram.slo, model, head.key, latency)
        return list(series.values())

    def _head(self, histogram: _Histogram, raw: bytes) -> _Head | None:
        """None for a sample with invalid labels."""
        if raw in histogram.heads:
            return histogram.heads[raw]
        if len(histogram.heads) >= _HEADS_KEPT:
            histogram.heads.clear()
        head: _Head | None = None
        try:
            labels = labels_of(raw)
            bound = float(labels.pop("le", "nan"))
            shared = {name: value for name, value in labels.items() if name not in self._dialect.pin}
            model = next((labels[name] for name in self._dialect.model_labels if labels.get(name)), None)
            key, replica = (label_text(head_of(histogram.chosen, some)) for some in (shared, labels))
            head = _Head(key, replica, model, bound)
        except ValueError:
            pass
        histogram.heads[raw] = head
        return head


def _is_of_requests(slo: Slo, phase: Phase | None) -> bool:
    """Whether an instance measures a latency of requests as their clients see them. A prefill instance ends every request
    at its first token; a decode instance gets it when the prompt is computed."""
    if phase is Phase.PREFILL:
        return False
    return phase is not Phase.DECODE or slo is Slo.TPOT


def _latency(counts: Mapping[float, float], target: float, seconds: float) -> Latency | None:
    """The counts around a target; None where the buckets are not those of one histogram."""
    bounds = sorted(counts)
    if not bounds or bounds[-1] != float("inf"):
        return None
    values = [counts[bound] for bound in bounds]
    if values != sorted(values):
        return None
    within = max((count for bound, count in counts.items() if bound <= target), default=0.0)
    at_most = min(count for bound, count in counts.items() if bound >= target)
    return Latency(within, at_most, values[-1], seconds)
