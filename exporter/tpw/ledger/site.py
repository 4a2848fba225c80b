"""The site of a node: charges of the whole site's contract, and the part of them that is the node's. Pure functions.

Standing charges are divided by the share of the moment in which they accrue. The peak and the month's kWh are those of the
whole site, the same on every node, so that the parts of all nodes sum to the bill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tpw.ledger.books import ROW_SECONDS, Rows

Span = tuple[float, float, float]
"""(start, end, joules): Unix seconds."""


@dataclass(frozen=True, slots=True)
class SiteNow:
    """The node's part of its site at a moment; None where it is not known."""

    name: str
    by: str
    node: float | None
    total: float | None
    share: float | None

    @property
    def sentence(self) -> str:
        """The part, and how it was found. "" where no site is configured."""
        if not self.by:
            return ""
        if self.node is None or self.total is None or self.share is None:
            return f"site {self.name}: the node's part is not known yet, so the site's charges are deferred."
        unit = {"gpu": "GPUs", "kw": "kW", "energy": "W in a quarter-hour"}[self.by]
        return (
            f"site {self.name}: this node books {100.0 * self.share:.3g} % of the site's charges:"
            f" {self.node:.6g} of {self.total:.6g} {unit}."
        )


@dataclass(frozen=True, slots=True)
class Site:
    """What is known of a site. Without a share its charges are deferred, and without power no demand is charged."""

    name: str = ""
    by: str = ""
    """kw, gpu or energy; "" where the nodes of the site are unknown."""
    node: float | None = None
    """The node's quantity; None: the GPUs it has."""
    total: float | None = None
    """The site's quantity. None while it is unknown."""
    spans: tuple[Span, ...] = ()
    """What the whole site used, in order of time, as far as it is known."""
    month_kwh: Mapping[float, float] = field(default_factory=dict)
    """The same by start of the billing month."""

    @property
    def known_until_seconds(self) -> float:
        """Up to when the site's use is known."""
        return self.spans[-1][1] if self.spans else 0.0

    def quantities(self, gpus: int, quarters: Mapping[float, float]) -> tuple[float, float] | None:
        """(of the node, of the site), in kW, GPUs, or watts of the last quarter-hour that is known of the site. None while
        one of them is unknown.

        Args:
            gpus: how many the node has.
            quarters: what the node used, by :func:`quarters`.
        """
        if self.by == "energy":
            return self._energy(quarters)
        node = float(gpus) if self.node is None else self.node
        return (node, self.total) if self.total and self.by else None

    def _energy(self, quarters: Mapping[float, float]) -> tuple[float, float] | None:
        end = self.known_until_seconds // ROW_SECONDS * ROW_SECONDS
        start = end - ROW_SECONDS
        node, site = quarters.get(start), sum(joules for _, _, joules in self.between(start, end))
        return (node / ROW_SECONDS, site / ROW_SECONDS) if node is not None and site > 0.0 else None

    def share(self, gpus: int, quarters: Mapping[float, float]) -> float | None:
        """The node's part, from 0 to 1; None while it is unknown. See :meth:`quantities`."""
        found = self.quantities(gpus, quarters)
        return None if found is None else min(1.0, found[0] / found[1])

    def now(self, gpus: int, quarters: Mapping[float, float]) -> SiteNow:
        """For people and metrics. See :meth:`quantities`."""
        node, total = self.quantities(gpus, quarters) or (None, None)
        return SiteNow(self.name, self.by, node, total, self.share(gpus, quarters))

    def between(self, start_seconds: float, end_seconds: float) -> Iterator[Span]:
        """What was used in whole spans within [start, end), the newest first."""
        for span in reversed(self.spans):
            if span[0] < start_seconds:
                return
            if span[1] <= end_seconds:
                yield span


QUARTERS_KEPT = 4
"""Rows for which the node's energy is kept: that of the site is known a few minutes after a row has ended."""


def quarters(before: Mapping[float, float], rows: Rows) -> Mapping[float, float]:
    """Facility joules of the node in the last rows: those in memory, and what is kept of those that were."""
    newest = sorted({*before, *rows})[-QUARTERS_KEPT:]
    return {
        start: sum(amounts.facility_joules for amounts in rows[start].values()) if start in rows else before[start]
        for start in newest
    }
