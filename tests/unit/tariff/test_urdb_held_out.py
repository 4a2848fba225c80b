"""Real rates of the Utility Rate Database against a calculation from their JSON that uses nothing of the exporter.

Every rate is read like the calculation or refused by name, and every field of it is read, describes it or is named. The
rates are the recorded one, and those of the folder ``TPW_URDB_RATES``. ``urdb-held-out.md`` beside the captures has the
result for rates of other projects, which are not copied here.
"""

from __future__ import annotations

import json
import os
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tpw.model import SourceError
from tpw.tariff.demand import Demand, close_windows, kw_months, record
from tpw.tariff.months import BillingMonths
from tpw.tariff.urdb import Urdb, parse
from tpw.tariff.urdb_charges import contract_of
from tpw.tariff.urdb_fields import READ

CAPTURES = Path(__file__).parents[2] / "captures" / "tariff"
RATES = sorted(CAPTURES.glob("urdb-*.json")) + sorted(
    Path(os.environ.get("TPW_URDB_RATES", "/nonexistent")).glob("*.json")
)
ZONE = "America/New_York"
BOTH = frozenset({"demand", "fixed"})
LOADS_KWH = (0.0, 250.0, 900.0, 40_000.0, 3_000_000.0)


def item_of(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    item = document["items"][0] if "items" in document else document
    return {str(key).lower(): value for key, value in item.items()}


def money(tier: dict[str, Any]) -> float:
    return float(tier["rate"]) + float(tier.get("adj") or 0)


def hourly(item: dict[str, Any], day: date, hour: int, used_kwh: float) -> float:
    """The price of the next kWh."""
    is_weekend = day.weekday() > 4 and item.get("energyweekendschedule")
    matrix = item["energyweekendschedule"] if is_weekend else item["energyweekdayschedule"]
    tiers = item["energyratestructure"][matrix[day.month - 1][hour]]
    found = next((tier for tier in tiers[:-1] if used_kwh < float(tier["max"])), tiers[-1])
    fuel = item.get("fueladjustmentsmonthly") or [0] * 12
    return money(found) + float(fuel[day.month - 1] or 0)


def blocks(tiers: list[dict[str, Any]], kw: float) -> float:
    total, lower = 0.0, 0.0
    for index, tier in enumerate(tiers):
        upper = float("inf") if index == len(tiers) - 1 else float(tier["max"])
        total += money(tier) * max(0.0, min(kw, upper) - lower)
        lower = upper
    return total


def month_of_demand(item: dict[str, Any], year: int, month: int, kw: dict[tuple[int, int], float]) -> dict[str, float]:
    """Both demand charges of a month with so many kW in these (day, hour)."""
    bill = {"peak": 0.0, "period": 0.0}
    units = {"hp": 0.745699872}
    if item.get("flatdemandstructure"):
        size = units.get(str(item.get("flatdemandunit") or item.get("flatdemandunits")), 1.0)
        bill["peak"] = blocks(item["flatdemandstructure"][item["flatdemandmonths"][month - 1]], max(kw.values()) / size)
    if item.get("demandratestructure"):
        peaks: dict[int, float] = {}
        for (day, hour), load in kw.items():
            is_weekend = date(year, month, day).weekday() > 4 and item.get("demandweekendschedule")
            matrix = item["demandweekendschedule"] if is_weekend else item["demandweekdayschedule"]
            period = matrix[month - 1][hour]
            peaks[period] = max(peaks.get(period, 0.0), load)
        size = units.get(str(item.get("demandrateunit") or item.get("demandrateunits")), 1.0)
        bill["period"] = sum(blocks(item["demandratestructure"][period], peak / size) for period, peak in peaks.items())
    return bill


def refusal(item: dict[str, Any]) -> str | None:
    """What its refusal names. None: the energy of this rate has a price for every hour."""
    used = {period for key in ("energyweekdayschedule", "energyweekendschedule") for row in item[key] for period in row}
    structure = item["energyratestructure"]
    if max(used) >= len(structure):
        return "periods"
    for period, tiers in enumerate(structure):
        if period in used and any(tier.get("rate") in (None, "") for tier in tiers):
            return f"period {period} has no rate"
    for tiers in structure:
        units = {str(tier.get("unit") or "kWh") for tier in tiers}
        if len(tiers) > 1 and units != {"kWh"}:
            return min(units - {"kWh"})
    return None


@pytest.mark.parametrize("path", RATES, ids=lambda path: path.stem)
def test_a_real_rate_is_read_like_its_json_or_refused_by_name(path: Path) -> None:
    item = item_of(path)
    expected = refusal(item)
    if expected is not None:
        with pytest.raises(SourceError, match=expected):
            parse(path.read_bytes())
        return
    rate = parse(path.read_bytes())
    source = Urdb(rate, ZONE)
    for number in range(365):
        day = date(2026, 1, 1) + timedelta(days=number)
        start = datetime(day.year, day.month, day.day, 0, 30, tzinfo=ZoneInfo(ZONE))
        for price in source.intervals(start.timestamp(), start.timestamp() + 86400 - 3600):
            local = datetime.fromtimestamp(price.start_seconds, UTC).astimezone(ZoneInfo(ZONE))
            for used in LOADS_KWH:
                assert price.price_after(used) == pytest.approx(hourly(item, local.date(), local.hour, used), abs=1e-12)


@pytest.mark.parametrize("path", RATES, ids=lambda path: path.stem)
def test_demand_of_a_real_rate_is_charged_like_its_json_or_excluded_by_name(path: Path) -> None:
    item = item_of(path)
    if refusal(item) is not None:
        return
    months = BillingMonths(ZONE)
    contract = contract_of(parse(path.read_bytes()), BOTH, months, ZONE)
    words = " ".join(contract.excluded)
    random = Random(path.name)
    for month in (1, 3, 7, 11):
        days = monthrange(2026, month)[1]
        kw = {(random.randint(1, days), random.randint(5, 23)): random.uniform(1, 2500) for _ in range(40)}
        start = datetime(2026, month, 1, tzinfo=ZoneInfo(ZONE)).timestamp()
        end = months.bounds(start)[1]
        found = {"peak": 0.0, "period": 0.0}
        for rules in contract.demand:
            state = record(Demand(), rules, start, start + 1, 0.0)
            for (day, hour), load in kw.items():
                at = datetime(2026, month, day, hour, tzinfo=ZoneInfo(ZONE)).timestamp()
                state = record(state, rules, at, at + rules.window_seconds, load * 1000 * rules.window_seconds)
            kind = "peak" if " peak " in f" {rules.name} " else "period"
            found[kind] += kw_months(close_windows(state, rules, end), rules, end) * rules.price_per_kw_month
        expected = month_of_demand(item, 2026, month, kw) if "cannot be read" not in words else found
        for kind, key in (("peak", "flatdemandstructure"), ("period", "demandratestructure")):
            if key in words:
                assert found[kind] == 0.0
            else:
                assert found[kind] == pytest.approx(expected[kind], rel=1e-9), (month, kind)


@pytest.mark.parametrize("path", RATES, ids=lambda path: path.stem)
def test_every_field_of_a_real_rate_is_read_or_named_or_describes_it(path: Path) -> None:
    item = item_of(path)
    if refusal(item) is not None:
        return
    rate = parse(path.read_bytes())
    contract = contract_of(rate, BOTH, BillingMonths(ZONE), ZONE)
    words = " ".join((*contract.excluded, *rate.excluded))
    costs = {
        key
        for key, value in item.items()
        if any(part in key for part in ("charge", "attrs", "keyvals", "ratchet"))
        and value not in (None, "", [], 0, 0.0)
    }
    for key in costs - READ - {"minchargeunits"}:
        assert key in words, key
