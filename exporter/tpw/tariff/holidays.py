"""Holidays: days of a list, and public holidays of a region by the optional package ``holidays``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tpw.settings.scalars import text
from tpw.settings.shapes import ListOf, Report, setting
from tpw.settings.values import calendar_date

IsHoliday = Callable[[date], bool]


def holidays_setting(counted_as: str) -> Any:
    """Listed days."""
    return setting(
        ListOf(calendar_date(), "a list of dates", gather=frozenset),
        f"Days that count as {counted_as}.",
        default=frozenset(),
        default_words="none",
    )


def holidays_region_setting(counted_as: str) -> Any:
    """A region."""
    return setting(
        text("a country such as DE, or a subdivision such as DE-BY", pattern="[A-Z]{2}(-[A-Z0-9]{1,3})?"),
        f"Public holidays of this country or subdivision count as {counted_as} too. Needs the optional package"
        " `holidays`.",
        default=None,
    )


def check_region(path: str, region: str | None, report: Report) -> None:
    """Report a region that the package does not know, or a missing package."""
    if not region:
        return
    if find_spec("holidays") is None:
        message = "needs the Python package `holidays`: install it, or list the dates in `holidays`"
        report(f"{path}.holidays_region", message)
        return
    try:
        public_holidays(region)
    except ValueError as error:
        report(f"{path}.holidays_region", str(error))


def is_holiday(days: frozenset[date], region: str | None) -> IsHoliday | None:
    """Whether a local day is a holiday, by both settings. None where neither is given."""
    if region is None:
        return days.__contains__ if days else None
    in_region = public_holidays(region)
    return lambda day: day in days or in_region(day)


def public_holidays(region: str) -> IsHoliday:
    """Public holidays of a country (``DE``) or a subdivision (``DE-BY``).

    Raises ImportError where the package is not installed, ValueError where it does not know the region.
    """
    holidays: Any = import_module("holidays")
    country, _, subdivision = region.partition("-")
    try:
        calendar = holidays.country_holidays(country, subdiv=subdivision or None)
    except NotImplementedError as error:
        raise ValueError(f"the package `holidays` does not know the region {region}") from error
    return lambda day: day in calendar
