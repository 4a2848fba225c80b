"""Bills of public tariffs, computed by hand, against what the books come to: from the file to the counters.

The prices of the feeds are invented, their form is the one of the service; the industrial rate is a real one. What is
computed here is computed without the exporter's own arithmetic of tariffs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from math import fsum
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tpw.config import load
from tpw.daemon import pricing
from tpw.daemon.pricing import Facts, Feeds
from tpw.http.messages import Answer, Request
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.rows import without_closed
from tpw.ledger.tick import Policy, Tick
from tpw.model import AcceleratorReading, Gpu, GpuSample, Instant
from tpw.polling import SourceHealth
from tpw.tariff.context import FeedContext
from tpw.tariff.curve import PriceCurve

CAPTURES = Path(__file__).parents[1] / "captures" / "tariff"
SITE = Gpu("SITE", 0, max_power_watts=1e7)
"""All energy as that of one GPU."""


def local(text: str, zone: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def metered(start: float, end: float, step: float, watts: Callable[[float], float]) -> Iterator[Tick]:
    """A counter that is read every ``step``; what is drawn from a tick to the next is ``watts`` of the first."""
    joules, at = 1e6, start
    while at <= end:
        sample = GpuSample(SITE.uuid, at, energy_joules=joules, power_watts=watts(at))
        yield Tick(Instant(at, at), AcceleratorReading((SITE,), (sample,)))
        joules, at = joules + watts(at) * step, at + step


def cost(books: Books, component: str) -> float:
    return fsum(posting.cost.get(component, 0.0) for posting in books.postings.values())


# ------------------------------------------------------------------------------------------------- an industrial rate, July


ZONE = "America/Los_Angeles"
JULY, AUGUST = local("2026-07-01T00:00", ZONE), local("2026-08-01T00:00", ZONE)


def site_watts(at: float) -> float:
    """800 kW, 1500 kW for half an hour of a morning, 1200 kW for an hour of an afternoon when energy is expensive."""
    if local("2026-07-08T11:00", ZONE) <= at < local("2026-07-08T11:30", ZONE):
        return 1_500_000.0
    if local("2026-07-14T17:00", ZONE) <= at < local("2026-07-14T18:00", ZONE):
        return 1_200_000.0
    return 800_000.0


@pytest.mark.parametrize("step", [900.0, 300.0])
def test_a_month_of_an_industrial_rate_with_peaks_by_hours(tmp_path: Path, step: float) -> None:
    """CI-TOD4 of the Sacramento Municipal Utility District, July 2026; the third, when the fourth is celebrated, is listed.

    Hours: 22 working days of five expensive hours (16 to 21) are 110, of 744 hours 634 are left.
    """
    (tmp_path / "rate.json").write_bytes((CAPTURES / "urdb-smud-ci-tod4-2025.json").read_bytes())
    config = load(
        """
        facility: {host_share: false}
        tariff:
          currency: USD
          timezone: America/Los_Angeles
          energy: {kind: urdb, file: rate.json, holidays: [2026-07-03], charges: [demand, fixed]}
        """,
        str(tmp_path / "tpw.yaml"),
    )
    clock = [JULY]
    feeds = Feeds(config, lambda name: SourceHealth(name, wall=lambda: clock[0]), lambda: clock[0])
    policy = Policy()
    by_hours = {"expensive": 0.0, "other": 0.0}
    money = dict(by_hours)
    books, before, spent = Books(), 0.0, 0.0
    for tick in metered(JULY, AUGUST, step, site_watts):
        now = clock[0] = tick.at.wall_seconds
        if (now - JULY) % 86400 == 0:
            policy = pricing.policy(config, feeds.read_all(now))
        books = without_closed(advance(books, tick, policy))
        posting = fsum(one.facility_joules for one in books.postings.values())
        moment = datetime.fromtimestamp(now - step, ZoneInfo(ZONE))
        expensive = 16 <= moment.hour < 21 and moment.weekday() < 5 and moment.day != 3
        by_hours["expensive" if expensive else "other"] += (posting - before) / 3.6e6
        money["expensive" if expensive else "other"] += cost(books, "energy") - spent
        before, spent = posting, cost(books, "energy")

    assert by_hours["expensive"] == pytest.approx(110 * 800 + 1 * 400)
    assert by_hours["other"] == pytest.approx(634 * 800 + 0.5 * 700)
    assert money["expensive"] == pytest.approx(88_400 * (0.2367 + 0.0003)) == pytest.approx(20_950.80)
    assert money["other"] == pytest.approx(507_550 * (0.1151 + 0.0003)) == pytest.approx(58_571.27)
    assert cost(books, "demand") == pytest.approx(1500 * 5.539 + 1200 * 11.609) == pytest.approx(8_308.50 + 13_930.80)
    assert cost(books, "fixed") == pytest.approx(3_897.40)
    bill = fsum(sum(one.cost.values()) - one.credit for one in books.postings.values())
    assert bill == pytest.approx(105_658.77)


# ------------------------------------------------------------------------------------- a rate with tiers and a block of kW


RATE_G = {
    # Rate G of Hydro-Quebec as it published it for 1 April 2017, in the form of the database. Amounts are Canadian dollars.
    "label": "rate-g",
    "energyratestructure": [[{"max": 15090, "rate": 0.0978, "unit": "kWh"}, {"rate": 0.0688, "unit": "kWh"}]],
    "energyweekdayschedule": [[0] * 24] * 12,
    "energyweekendschedule": [[0] * 24] * 12,
    "flatdemandstructure": [[{"max": 50, "rate": 0.0}, {"rate": 17.43}]],
    "flatdemandmonths": [0] * 12,
    "flatdemandunit": "kW",
    "fixedchargefirstmeter": 12.33,
    "fixedchargeunits": "$/month",
}


@pytest.mark.parametrize("step", [900.0, 300.0])
def test_a_month_of_a_public_rate_with_tiers_and_demand_above_a_block(tmp_path: Path, step: float) -> None:
    """40 kW in November 2026, which has 721 hours in Montreal, and 62 kW for the first hour of the ninth's afternoon.

    40 x 721 + 22 = 28 862 kWh: 15 090 at the first price, 13 772 at the second. 62 - 50 = 12 kW of demand.
    """
    zone = "America/Toronto"
    start, end = local("2026-11-01T00:00", zone), local("2026-12-01T00:00", zone)
    peak = local("2026-11-09T13:00", zone)
    (tmp_path / "rate.json").write_text(json.dumps(RATE_G))
    config = load(
        f"""
        facility: {{host_share: false}}
        tariff:
          currency: USD
          timezone: {zone}
          energy: {{kind: urdb, file: rate.json, charges: [demand, fixed]}}
        """,
        str(tmp_path / "tpw.yaml"),
    )
    clock = [start]
    feeds = Feeds(config, lambda name: SourceHealth(name, wall=lambda: clock[0]), lambda: clock[0])
    policy, books = Policy(), Books()
    for tick in metered(start, end, step, lambda at: 62_000.0 if peak <= at < peak + 3600 else 40_000.0):
        now = clock[0] = tick.at.wall_seconds
        if (now - start) % 86400 == 0:
            policy = pricing.policy(config, feeds.read_all(now))
        books = without_closed(advance(books, tick, policy))

    assert cost(books, "energy") == pytest.approx(15_090 * 0.0978 + 13_772 * 0.0688) == pytest.approx(2_423.3156)
    assert cost(books, "demand") == pytest.approx(12 * 17.43) == pytest.approx(209.16)
    assert cost(books, "fixed") == pytest.approx(12.33)
    assert fsum(sum(one.cost.values()) for one in books.postings.values()) == pytest.approx(2_644.8056)


# ----------------------------------------------------------------------------------------------------------- days of a feed


def of_a_day(
    tmp_path: Path, tariff: str, capture: str, start: float, end: float, watts: Callable[[float], float]
) -> Books:
    """The books of a day under a tariff of a service that answers with a capture."""
    (tmp_path / "token").write_text("t")
    asked: list[Request] = []

    def fetch(request: Request) -> Answer:
        asked.append(request)
        return Answer(200, (CAPTURES / capture).read_bytes())

    config = load(f"facility: {{host_share: false}}\ntariff: {tariff}", str(tmp_path / "tpw.yaml"))
    source = config.tariff.prices(FeedContext(lambda: start + 3600, fetch, jitter=0.0))
    assert source is not None
    policy = pricing.policy(config, Facts(PriceCurve.from_intervals(source.intervals(start, end))))
    books = Books()
    for tick in metered(start, end, 300.0, watts):
        books = advance(books, tick, policy)
    assert len(asked) == 1
    return books


def test_a_day_of_a_hundred_quarter_hours_with_a_negative_price(tmp_path: Path) -> None:
    """25 hours of 10 kW, 2.5 kWh at each of a hundred prices of the auction; network and levies on top, then 19 %."""
    zone = "Europe/Berlin"
    start, end = local("2026-10-25T00:00", zone), local("2026-10-26T00:00", zone)
    points = re.findall(
        r"<position>(\d+)</position>\s*<price.amount>([-\d.]+)<", (CAPTURES / "entsoe-autumn-100.xml").read_text()
    )
    published = {int(position): float(price) for position, price in points}
    spot: list[float] = []
    for position in range(1, 101):
        spot.append(published.get(position, spot[-1] if spot else 0.0))
    quarters = [2.5 * (price / 1000 + 0.045 + 0.0105) * 1.19 for price in spot]

    books = of_a_day(
        tmp_path,
        """{currency: EUR, timezone: Europe/Berlin, vat: 0.19, energy: {kind: entsoe, area: DE-LU, token_file: token},
            grid: {price_per_kwh: 0.045}, levies: {price_per_kwh: 0.0105}}""",
        "entsoe-autumn-100.xml",
        start,
        end,
        lambda at: 10_000.0,
    )

    (posting,) = books.postings.values()
    assert posting.facility_joules == pytest.approx(250 * 3.6e6)
    assert posting.cost["energy"] == pytest.approx(fsum(one for one in quarters if one > 0), rel=1e-9)
    assert posting.credit == pytest.approx(-fsum(one for one in quarters if one < 0), rel=1e-9)
    assert min(quarters) < 0 < posting.credit
    for (start_of, row), quarter in zip(sorted(books.rows.items()), quarters, strict=True):
        (of_row,) = row.values()
        assert of_row.cost["energy"] - of_row.credit == pytest.approx(quarter, rel=1e-9), start_of


def test_a_day_of_agile_with_value_added_tax(tmp_path: Path) -> None:
    """48 half-hours of 4 kW, 2 kWh at each price: with 5 % on top, the sum of the service's own prices with VAT."""
    rates = json.loads((CAPTURES / "octopus-agile.json").read_text())["results"]
    day = sorted((one for one in rates if one["payment_method"] != "NON_DIRECT_DEBIT"), key=lambda e: e["valid_from"])
    start = datetime.fromisoformat(day[0]["valid_from"]).timestamp()
    end = datetime.fromisoformat(day[-1]["valid_to"]).timestamp()
    assert (len(day), end - start) == (48, 86400.0)

    books = of_a_day(
        tmp_path,
        "{currency: GBP, vat: 0.05, energy: {kind: octopus, tariff_code: E-1R-AGILE-24-10-01-C}}",
        "octopus-agile.json",
        start,
        end,
        lambda at: 4_000.0,
    )

    (posting,) = books.postings.values()
    without = fsum(2 * one["value_exc_vat"] / 100 for one in day)
    assert posting.cost["energy"] - posting.credit == pytest.approx(without * 1.05, rel=1e-9)
    with_vat = fsum(2 * one["value_inc_vat"] / 100 for one in day)
    assert posting.cost["energy"] - posting.credit == pytest.approx(with_vat, abs=48 * 2 * 0.00005 / 100)


# ------------------------------------------------------------------------------------------------------------ a month's end


def rows_before(books: Books, moment: float, component: str) -> float:
    """What the quarter-hours before a moment hold, as a report of that month has it."""
    return fsum(
        posting.cost.get(component, 0.0)
        for start, row in books.rows.items()
        if start < moment
        for posting in row.values()
    )


DEMAND = """
    facility: {host_share: false}
    tariff: {currency: EUR, timezone: Europe/Berlin, demand: {price_per_kw_month: 10}, energy: {price_per_kwh: 0.2}}
    """
NOVEMBER = local("2026-11-01T00:00", "Europe/Berlin")


@pytest.mark.parametrize("step", [300.0, 900.0])
@pytest.mark.parametrize("down_hours", [0, 6, 72])
def test_a_peak_at_the_end_of_a_month_is_in_the_books_of_that_month(step: float, down_hours: int) -> None:
    """100 kW in October and November, 300 kW in October's last quarter-hour: October costs 3000 however late that is known.
    What is used while the exporter is down, half of the time before midnight, is known by its mean."""
    policy = pricing.policy(load(DEMAND), Facts(PriceCurve()))
    begun, end = local("2026-10-01T00:00", "Europe/Berlin"), NOVEMBER + 3 * 86400
    books, at = Books(), begun
    while at <= end:
        if not abs(at - NOVEMBER) < down_hours * 1800:
            joules = 100_000.0 * (at - begun) + 200_000.0 * min(max(at - (NOVEMBER - 900), 0.0), 900.0)
            sample = GpuSample(SITE.uuid, at, energy_joules=joules)
            books = advance(books, Tick(Instant(at, at), AcceleratorReading((SITE,), (sample,))), policy)
        at += step

    mean_kw = 100.0 + 200.0 * 0.25 / down_hours if down_hours else 100.0
    october = rows_before(books, NOVEMBER, "demand")
    assert october == pytest.approx(10 * (mean_kw if down_hours else 300.0))
    assert cost(books, "demand") - october == pytest.approx(10 * mean_kw * 3 / 30)
