"""Price sources: one file each, one protocol, one explicit table.

A price source tells the all-in price per kWh as half-open UTC intervals. It knows nothing of joules: the ledger splits
energy at the interval boundaries and prices each piece at its moment. Sources know no configuration file either: they
are built from plain values (:mod:`tpw.config.prices` maps the file to them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tpw.model import PriceInterval


class PriceSource(Protocol):
    """Tells prices."""

    name: str
    """Kind of the source, e.g. ``flat``."""

    def intervals(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        """Prices known for [start, end), Unix seconds: ordered, not overlapping, clipped to the range. Time for which
        no price is known is simply not covered. Raises SourceError when a feed cannot be read and nothing is cached."""


def _flat(**options: Any) -> PriceSource:
    from tpw.tariff.flat import Flat

    return Flat(**options)


def _time_of_use(**options: Any) -> PriceSource:
    from tpw.tariff.time_of_use import TimeOfUse

    return TimeOfUse(**options)


KINDS: Mapping[str, Callable[..., PriceSource]] = {
    "flat": _flat,
    "time_of_use": _time_of_use,
}
"""Kind -> what makes a source of its plain options. Each imports its module only when it is used."""
