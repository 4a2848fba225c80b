"""Public holidays of a region, by the optional package."""

from __future__ import annotations

from datetime import date

import pytest

from tpw.tariff.time_of_use import holidays_of

pytest.importorskip("holidays", reason="the optional package holidays is not installed")


@pytest.mark.parametrize(
    ("region", "day", "expected"),
    [
        ("DE", date(2026, 12, 25), True),
        ("DE", date(2026, 12, 24), False),
        ("DE", date(2026, 1, 6), False),
        ("DE-BY", date(2026, 1, 6), True),
        ("US-CA", date(2030, 7, 4), True),
    ],
)
def test_holiday_of_a_country_or_subdivision(region: str, day: date, expected: bool) -> None:
    assert holidays_of(region)(day) is expected


@pytest.mark.parametrize("region", ["ZZ", "DE-ZZ"])
def test_unknown_region_is_refused(region: str) -> None:
    with pytest.raises(ValueError, match="does not know the region"):
        holidays_of(region)
