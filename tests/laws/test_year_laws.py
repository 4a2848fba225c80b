"""A whole contract over a whole year, against a sum over every minute of it.

Prices change on whole minutes and so does the load here, so a minute is as exact as a second. The sum knows the contract
from these lines and the calendar from the standard library, and nothing of the exporter.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from math import fsum
from zoneinfo import ZoneInfo

import pytest

from tpw.config import load
from tpw.daemon import pricing
from tpw.daemon.pricing import Facts
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.rows import without_closed
from tpw.ledger.tick import Tick
from tpw.model import AcceleratorReading, Gpu, GpuSample, Instant
from tpw.tariff.context import FeedContext
from tpw.tariff.curve import PriceCurve

SITE = Gpu("SITE", 0, max_power_watts=1e7)
DAY, MINUTE = 86400.0, 60.0
HOLIDAYS = (date(2026, 5, 1), date(2026, 12, 25))

CONTRACT = """
facility: {{pue: 1.25, host_share: false}}
tariff:
  currency: EUR
  timezone: {zone}
  billing_day: 10
  vat: 0.19
  energy:
    kind: time_of_use
    price_per_kwh: 0.21
    holidays: [2026-05-01, 2026-12-25]
    zones:
      - {{price_per_kwh: 0.11, hours: "22:00-06:00"}}
      - {{price_per_kwh: -0.30, hours: "12:00-14:30", months: [5-8]}}
      - {{price_per_kwh: 0.33, hours: "17:15-20:45", days: [mon-fri], months: [11-3]}}
      - {{price_per_kwh: 0.07, days: [sun], valid_from: 2026-06-01, valid_to: 2026-09-30}}
  grid:
    price_per_kwh: 0.055
    includes_vat: true
    blocks: [{{above_kwh: 30000, price_per_kwh: 0.045}}, {{above_kwh: 90000, price_per_kwh: 0.06}}]
  levies: {{price_per_kwh: 0.0205}}
  fixed: {{per_month: 120, per_day: 0.5}}
  capacity: {{kw: 40, price_per_kw_month: 9.5}}
  demand: {{price_per_kw_month: 11.5, window: 15m, ratchet: 0.8, ratchet_months: 3}}
"""


def energy_price(local: datetime) -> float:
    """Of the first layer, at a reading of the local clock."""
    day, minute = local.date(), local.hour * 60 + local.minute
    weekday = 6 if day in HOLIDAYS else day.weekday()
    if weekday == 6 and date(2026, 6, 1) <= day <= date(2026, 9, 30):
        return 0.07
    if 17 * 60 + 15 <= minute < 20 * 60 + 45 and weekday < 5 and day.month in {11, 12, 1, 2, 3}:
        return 0.33
    if 12 * 60 <= minute < 14 * 60 + 30 and day.month in {5, 6, 7, 8}:
        return -0.30
    return 0.11 if minute >= 22 * 60 or minute < 6 * 60 else 0.21


def grid_cost(kwh: float) -> float:
    """Of a month, by its blocks."""
    return 0.055 * min(kwh, 30_000) + 0.045 * min(max(kwh - 30_000, 0), 60_000) + 0.06 * max(kwh - 90_000, 0)


def loads(start: float, end: float, seed: str) -> Iterator[tuple[float, float, float]]:
    """(from, to, kW of the GPUs) in stretches from a quarter of an hour to three days."""
    numbers = random.Random(seed)
    at = start
    while at < end:
        until = min(end, at + numbers.choice([900, 900, 1800, 3600, 7 * 3600, DAY, 3 * DAY]))
        yield at, until, numbers.choice([20.0, 60.0, 95.0, 140.0, 300.0 if numbers.random() < 0.02 else 40.0])
        at = until


def by_the_minute(zone: ZoneInfo, stretches: list[tuple[float, float, float]]) -> dict[str, float]:
    """What the contract charges, minute by minute."""
    months: dict[tuple[int, int], float] = {}
    windows: dict[tuple[int, int], dict[float, float]] = {}
    cost = {"charge": 0.0, "credit": 0.0, "grid": 0.0}
    for start, end, gpu_kw in stretches:
        kw = gpu_kw * 1.25
        kwh = kw / 60
        for at in range(int(start), int(end), 60):
            local = datetime.fromtimestamp(at, UTC).astimezone(zone)
            month = (local.year, local.month) if local.day >= 10 else divmod(local.year * 12 + local.month - 2, 12)
            if local.day < 10:
                month = (month[0], month[1] + 1)
            used = months.get(month, 0.0)
            grid = (grid_cost(used + kwh) - grid_cost(used)) / kwh
            months[month] = used + kwh
            price = (energy_price(local) + 0.0205) * 1.19 + grid
            cost["charge" if price >= 0 else "credit"] += abs(price) * kwh
            at_window = windows.setdefault(month, {})
            at_window[at // 900] = at_window.get(at // 900, 0.0) + kw / 15
    peaks = [max(of_month.values()) for of_month in windows.values()]
    billed = [max(peak, 0.8 * max(peaks[max(0, n - 3) : n], default=0.0)) for n, peak in enumerate(peaks)]
    cost["demand"] = fsum(billed) * 11.5 * 1.19
    return cost


@pytest.mark.parametrize("timezone", ["Europe/Berlin", "America/Los_Angeles"])
def test_a_years_contract_is_the_sum_of_its_minutes(timezone: str) -> None:
    zone = ZoneInfo(timezone)
    start, end = (datetime(year, 1, 10, tzinfo=zone).timestamp() for year in (2026, 2027))
    config = load(CONTRACT.format(zone=timezone))
    source = config.tariff.prices(FeedContext(lambda: start))
    assert source is not None
    policy = pricing.policy(config, Facts(PriceCurve.from_intervals(source.intervals(start, end)), pue=1.25))

    stretches = list(loads(start, end, timezone))
    books, joules = Books(), 1e6
    for at, kw in [(start, 0.0), *((until, kw * (until - since)) for since, until, kw in stretches)]:
        joules += kw * 1000.0
        sample = GpuSample(SITE.uuid, at, energy_joules=joules)
        tick = Tick(Instant(at, at), AcceleratorReading((SITE,), (sample,)))
        books = without_closed(advance(books, tick, policy))

    [posting] = books.postings.values()
    expected = by_the_minute(zone, stretches)
    assert expected["credit"] > 0.0
    assert posting.unpriced_joules == 0.0
    assert posting.cost["energy"] == pytest.approx(expected["charge"], rel=1e-9)
    assert posting.credit == pytest.approx(expected["credit"], rel=1e-9)
    assert posting.cost["demand"] == pytest.approx(expected["demand"], rel=1e-9)
    assert posting.cost["fixed"] == pytest.approx((12 * 120 + 365 * 0.5) * 1.19, rel=1e-9)
    assert posting.cost["capacity"] == pytest.approx(12 * 40 * 9.5 * 1.19, rel=1e-9)
