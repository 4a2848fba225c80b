"""Ten contracts of ``docs/tariffs``, each for a month: the bill by hand, ``bill`` and the counters agree to a cent.

What is computed by hand uses hours of local time and the prices of the contract, and nothing of the exporter.
"""

from __future__ import annotations

import json
import shutil
from calendar import monthrange
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from math import fsum
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tpw.billing.bill import Bill, bill
from tpw.billing.curve import from_csv
from tpw.config import load_file
from tpw.config.schema import Config
from tpw.daemon import pricing
from tpw.daemon.pricing import Facts
from tpw.http.messages import Answer, Request
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.rows import without_closed
from tpw.ledger.tick import Tick
from tpw.model import AcceleratorReading, Gpu, GpuSample, Instant
from tpw.tariff.context import FeedContext
from tpw.tariff.curve import PriceCurve

DOCS = Path(__file__).parents[2] / "docs" / "tariffs"
SITE = Gpu("SITE", 0, max_power_watts=1e7)


@dataclass(frozen=True)
class Hour:
    """One hour of a month: its load, and its market price per MWh."""

    local: datetime
    start: float
    kw: float
    spot: float

    @property
    def is_working_day(self) -> bool:
        return self.local.weekday() < 5


@dataclass(frozen=True)
class Contract:
    """A file of ``docs/tariffs`` and its bill by hand, by section."""

    name: str
    zone: str
    month: str
    base_kw: float
    peaks: Mapping[str, float]
    """Kilowatt in some hours: "08 11" is the eighth at 11:00."""
    by_hand: Callable[[list[Hour]], dict[str, float]]
    files: Callable[[list[Hour]], dict[str, str]] = field(default=lambda hours: {})


def hours_of(contract: Contract) -> list[Hour]:
    zone = ZoneInfo(contract.zone)
    year, month = map(int, contract.month.split("-"))
    start = datetime(year, month, 1, tzinfo=zone).timestamp()
    days = monthrange(year, month)[1]
    end = datetime.combine(date(year, month, days) + timedelta(days=1), datetime.min.time(), zone).timestamp()
    result = []
    at = start
    while at < end:
        local = datetime.fromtimestamp(at, UTC).astimezone(zone)
        kw = contract.peaks.get(f"{local:%d %H}", contract.base_kw + 10 * (local.hour in range(9, 18)))
        spot = 60 + 5 * (local.hour % 7) - (80 if local.weekday() == 6 and local.hour in (12, 13) else 0)
        result.append(Hour(local, at, kw, spot))
        at += 3600
    return result


def kwh(hours: list[Hour]) -> float:
    return fsum(hour.kw for hour in hours)


def peak(hours: list[Hour], where: Callable[[Hour], bool] = lambda hour: True) -> float:
    return max((hour.kw for hour in hours if where(hour)), default=0.0)


# ---------------------------------------------------------------------------------------------------------------- by hand


def ppa(hours: list[Hour]) -> dict[str, float]:
    return {
        "energy": fsum(hour.kw * (0.7 * 0.062 + 0.3 * 1.02 * hour.spot / 1000) for hour in hours),
        "grid": kwh(hours) * 0.021,
        "levies": kwh(hours) * 0.0205,
    }


def roof(hour: Hour) -> float:
    return {10: 0.25, 11: 0.6, 12: 1.0, 13: 0.8, 14: 0.3}.get(hour.local.hour, 0.0)


def solar(hours: list[Hour]) -> dict[str, float]:
    bought = fsum(hour.kw * (1 - roof(hour)) for hour in hours)
    return {
        "energy": fsum(hour.kw * roof(hour) for hour in hours) * 0.0778 + bought * 0.149,
        "grid": bought * 0.0912,
        "levies": bought * 0.0412,
    }


def colocation(hours: list[Hour]) -> dict[str, float]:
    return {"energy": 0.0, "demand": 100 * 194.95 + (112.5 - 100) * 245, "fixed": 350.0}


def germany(hours: list[Hour]) -> dict[str, float]:
    def price(hour: Hour) -> float:
        is_high = hour.is_working_day and hour.local.day not in (1, 6) and 8 <= hour.local.hour < 20
        return 0.0985 if is_high else 0.0840

    return {
        "energy": fsum(hour.kw * price(hour) for hour in hours),
        "grid": kwh(hours) * 0.0123,
        "levies": kwh(hours) * (0.0005 + 0.00446 + 0.00941 + 0.01559 + 0.0011),
        "demand": 640 * 95.40 * 31 / 365,
        "fixed": 41.50,
    }


def california(hours: list[Hour]) -> dict[str, float]:
    def price(hour: Hour) -> float:
        if 16 <= hour.local.hour < 21:
            return 0.1892
        return 0.1567 if hour.local.hour in (14, 15, 21, 22) else 0.1324

    energy = fsum(hour.kw * price(hour) for hour in hours)
    demand = 1500 * 26.07 + 1200 * 32.90 + 1300 * 7.06
    fixed = 31 * 61.59
    return {
        "energy": energy,
        "demand": demand,
        "fixed": fixed,
        "taxes": 0.05 * (energy + demand + fixed) + 0.003 * energy,
    }


def colour(day: date) -> str:
    return "RED" if day.day in (13, 14) else "WHITE" if day.day % 5 == 0 else "BLUE"


def tempo(hours: list[Hour]) -> dict[str, float]:
    prices = {"BLUE": (0.1341, 0.1104), "WHITE": (0.1559, 0.1245), "RED": (0.5894, 0.1308)}
    energy = 0.0
    for hour in hours:
        day = hour.local.date() - timedelta(days=1 if hour.local.hour < 6 else 0)
        full, night = prices[colour(day)]
        energy += hour.kw * (full if 6 <= hour.local.hour < 22 else night)
    return {"energy": energy, "fixed": 40.50, "vat": 0.2 * (energy + 40.50)}


def texas(hours: list[Hour]) -> dict[str, float]:
    energy = fsum(hour.kw * (1.021 * hour.spot / 1000 + 0.0045) for hour in hours)
    at_the_event = next(hour.kw for hour in hours if f"{hour.local:%d %H}" == "20 17")
    demand = 910 * 5.42 + at_the_event / 4 * 67.20 * 31 / 365
    grid, fixed = kwh(hours) * 0.00076, 280.0
    return {
        "energy": energy,
        "grid": grid,
        "demand": demand,
        "fixed": fixed,
        "taxes": (energy + grid + demand + fixed) * (0.01997 + 0.001667),
    }


def india(hours: list[Hour]) -> dict[str, float]:
    def price(hour: Hour) -> float:
        if 9 <= hour.local.hour < 17:
            return 8.36 - 1.254
        return 8.36 + 1.672 if 6 <= hour.local.hour < 9 or 17 <= hour.local.hour < 22 else 8.36

    energy = fsum(hour.kw * price(hour) for hour in hours)
    billed_kva = 410 / 0.97
    demand = 400 * 583 + (billed_kva - 400) * 874.5
    grid, levies = kwh(hours) * 0.74, kwh(hours) * 0.35
    return {
        "energy": energy,
        "grid": grid,
        "levies": levies,
        "demand": demand,
        "taxes": 0.09 * (energy + grid + levies + demand),
    }


def japan(hours: list[Hour]) -> dict[str, float]:
    net = {"energy": kwh(hours) * 21.07, "levies": kwh(hours) * (3.98 - 2.14), "demand": 720 * 1802.0}
    return {**net, "vat": 0.10 * sum(net.values())}


def agile(hours: list[Hour]) -> dict[str, float]:
    energy = fsum(hour.kw * min(hour.spot / 1000 * 2.1, 1.0) for hour in hours)
    fixed = 0.4521 * len(hours) / 24
    return {"energy": energy, "fixed": fixed, "vat": 0.05 * (energy + fixed)}


def table(name: str, column: str, value: Callable[[Hour], object]) -> Callable[[list[Hour]], dict[str, str]]:
    def files(hours: list[Hour]) -> dict[str, str]:
        lines = [f"{datetime.fromtimestamp(hour.start, UTC):%Y-%m-%dT%H:%M:%SZ},{value(hour)}" for hour in hours]
        return {name: "\n".join([f"time,{column}", *lines]) + "\n"}

    return files


def calendar(hours: list[Hour]) -> dict[str, str]:
    first = hours[0].local.date() - timedelta(days=1)
    days = [first + timedelta(days=number) for number in range(33)]
    return {"tempo.csv": "date,colour\n" + "".join(f"{day},{colour(day)}\n" for day in days)}


CONTRACTS = [
    Contract("ppa-and-spot", "Europe/Berlin", "2026-03", 500, {}, ppa),
    Contract(
        "solar-self-consumption", "Europe/Berlin", "2026-07", 90, {}, solar, table("solar-share.csv", "share", roof)
    ),
    Contract("colocation", "America/Chicago", "2026-11", 80, {"12 15": 112.5}, colocation),
    Contract("germany-industry", "Europe/Berlin", "2026-01", 500, {"20 10": 640}, germany),
    Contract(
        "california-b20",
        "America/Los_Angeles",
        "2026-07",
        800,
        {"08 11": 1500, "14 17": 1200, "18 14": 1300},
        california,
    ),
    Contract("france-tempo", "Europe/Paris", "2026-01", 30, {}, tempo, calendar),
    Contract(
        "texas-4cp",
        "America/Chicago",
        "2026-07",
        700,
        {"09 12": 910, "20 17": 420},
        texas,
        table("lz-north.csv", "price", lambda hour: hour.spot),
    ),
    Contract("india-tod", "Asia/Kolkata", "2026-07", 320, {"08 11": 410}, india),
    Contract("japan-fuel-adjustment", "Asia/Tokyo", "2026-07", 600, {"08 14": 720}, japan),
    Contract("uk-agile", "Europe/London", "2026-10", 4, {}, agile),
]


# -------------------------------------------------------------------------------------------------------------- services


def service(hours: list[Hour]) -> Callable[[Request], Answer]:
    """Answers like the services that the contracts name."""

    def fetch(request: Request) -> Answer:
        if "energy-charts" in request.url:
            body: object = {
                "unix_seconds": [int(hour.start) for hour in hours],
                "price": [hour.spot for hour in hours],
                "unit": "EUR / MWh",
            }
        else:
            body = {"next": None, "results": [rate for hour in hours for rate in half_hours(hour)]}
        return Answer(200, json.dumps(body).encode())

    return fetch


def half_hours(hour: Hour) -> Iterator[dict[str, object]]:
    for start in (hour.start, hour.start + 1800):
        pence = hour.spot / 1000 * 2.1 * 100
        times = (datetime.fromtimestamp(moment, UTC).isoformat() for moment in (start, start + 1800))
        yield dict(zip(("valid_from", "valid_to"), times, strict=True)) | {
            "value_exc_vat": pence,
            "value_inc_vat": pence * 1.05,
        }


def configured(contract: Contract, hours: list[Hour], directory: Path) -> Config:
    shutil.copy(DOCS / f"{contract.name}.yaml", directory / "tpw.yaml")
    for name, text in contract.files(hours).items():
        (directory / name).write_text(text)
    with (directory / "tpw.yaml").open("a") as file:
        file.write("facility: {host_share: false}\n")
    return load_file(directory / "tpw.yaml")


def billed(config: Config, contract: Contract, hours: list[Hour], directory: Path) -> Bill:
    lines = [f"{hour.local.isoformat()},{hour.kw}" for hour in hours]
    (directory / "load.csv").write_text("time,kW\n" + "\n".join(lines) + "\n")
    loads = from_csv(str(directory / "load.csv"), contract.zone)
    context = FeedContext(fetch=service(hours), jitter=0.0)
    return bill(config.tariff, loads, hours[0].start, hours[-1].start + 3600, context)


def replayed(config: Config, hours: list[Hour]) -> Books:
    """The books of the month, with prices read once."""
    clock = [hours[0].start]
    source = config.tariff.prices(FeedContext(lambda: clock[0], service(hours), jitter=0.0))
    assert source is not None
    found = []
    end = hours[-1].start + 3600
    at = hours[0].start
    while at < end:
        clock[0] = min(at + 7 * 86400, end)
        found += source.intervals(at, clock[0])
        at = clock[0]
    policy = pricing.policy(config, Facts(PriceCurve.from_intervals(found), contract=source.contract))
    books, joules = Books(), 1e6
    for hour in [*hours, Hour(hours[-1].local, end, 0.0, 0.0)]:
        sample = GpuSample(SITE.uuid, hour.start, energy_joules=joules, power_watts=hour.kw * 1000)
        books = without_closed(
            advance(books, Tick(Instant(hour.start, hour.start), AcceleratorReading((SITE,), (sample,))), policy)
        )
        joules += hour.kw * 1000 * 3600
    return books


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_a_month_by_hand_by_bill_and_by_the_counters(contract: Contract, tmp_path: Path) -> None:
    hours = hours_of(contract)
    config = configured(contract, hours, tmp_path)
    by_hand = contract.by_hand(hours)

    found = billed(config, contract, hours, tmp_path)

    assert found.kwh == pytest.approx(kwh(hours))
    assert (found.unpriced_kwh, found.problems, found.excluded) == (0.0, (), ())
    assert {section: round(found.of(section), 2) for section in by_hand} == {
        section: pytest.approx(amount, abs=0.01) for section, amount in by_hand.items()
    }
    assert found.total == pytest.approx(sum(by_hand.values()), abs=0.01)

    postings = replayed(config, hours).postings.values()
    counters = fsum(sum(posting.cost.values()) - posting.credit for posting in postings)
    assert fsum(posting.unpriced_joules for posting in postings) == 0.0
    assert counters == pytest.approx(sum(by_hand.values()), abs=0.01)


def test_every_contract_of_the_docs_is_run() -> None:
    assert sorted(path.stem for path in DOCS.glob("*.yaml")) == sorted(contract.name for contract in CONTRACTS)
