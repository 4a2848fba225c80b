"""What tests compare of a reading."""

from __future__ import annotations

from collections.abc import Iterable

from tpw.model import Role, TokenSeries


def totals_by_role(series: Iterable[TokenSeries]) -> dict[Role, float]:
    """The sum of the series by role, over all models."""
    totals: dict[Role, float] = {}
    for one in series:
        totals[one.role] = totals.get(one.role, 0.0) + one.value
    return totals
