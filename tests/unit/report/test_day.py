"""A whole day of the real daemon, the longest of the year, held against a plain sum over its seconds.

The price changes every quarter of an hour and goes below zero; servers work, wait and go away; the daemon is stopped in
the middle and started anew eleven minutes later. The page, the report and the sum over the seconds must agree.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from support.clockwork import Clock, ExactMeter, ExactServer, Truth, Work, live, serving
from support.scraped import Page, parse
from tpw.cli import main
from tpw.config.load import load_file
from tpw.exposition.render import Format
from tpw.exposition.render import Page as Rendered
from tpw.store.sqlite import BooksFile

DOCUMENT = Path(__file__).parents[3] / "docs" / "report.md"
ZONE = ZoneInfo("Europe/Berlin")
MIDNIGHT = datetime(2026, 10, 25, tzinfo=ZONE).timestamp()
DAY_SECONDS = 25 * 3600
TICK_SECONDS = 20
START = MIDNIGHT - TICK_SECONDS / 2
"""Half a tick before midnight, to half a tick after the next: ticks cross the borders of quarters, where prices change."""
TICKS = DAY_SECONDS // TICK_SECONDS + 1
STOPPED, STARTED = 2161, 2194
"""Ticks at which the daemon is stopped and started anew: 11 minutes, over the border of a quarter."""
PUE, VAT, GRAMS_PER_KWH = 1.25, 0.19, 380.0
HARDWARE_PER_SECOND = (30_000.0 - 6_000.0) / 4.0 / 8760.0 / 3600.0
FIXED_PER_DAY = 2.4
RENTED_PER_HOUR = 2.69
MODELS = {"chat": "llama-70b", "code": "qwen-30b"}
OWNERS = {"chat": (0, 1), "code": (2,)}
GPUS = 4


def constant_over_the_outage(tick: int) -> int:
    """Nobody can know how power went while nothing was read: it is spread evenly, so here it is even."""
    return STOPPED if STOPPED <= tick < STARTED else tick


def work_of(server: str, tick: int) -> Work:
    """Chat works three quarters of every hour and then waits; code is not there for four hours of the night."""
    tick = constant_over_the_outage(tick)
    if server == "chat":
        phase = tick % 180
        if phase >= 135:
            return Work()
        return Work(running=8, computed=4000 + phase, cached=1500, output=9000 + 3 * phase, requests=phase % 7)
    if 400 <= tick < 1120:
        return Work(up=False)
    if tick % 250 < 60:
        return Work(running=2, computed=800, cached=0, output=2000 + tick % 100, requests=1)
    return Work()


def watts_of(gpu: int, tick: int) -> float:
    tick = constant_over_the_outage(tick)
    server = next((name for name, gpus in OWNERS.items() if gpu in gpus), None)
    busy = server is not None and work_of(server, tick).running > 0
    return (520.0 + 7.0 * (tick % 13) if busy else 71.3) + gpu


TRUTH = Truth(TICKS, TICK_SECONDS, watts_of, work_of, OWNERS, GPUS)


def spot_per_mwh(quarter: int) -> float:
    """Below zero at noon, expensive in the evening."""
    return -140.25 if 50 <= quarter % 100 < 56 else 60.0 + 1.75 * (quarter % 100)


def price_at(second: float) -> float:
    """The all-in price of a kWh."""
    local = datetime.fromtimestamp(second, UTC).astimezone(ZONE)
    grid = 0.09 if 17 <= local.hour < 20 else 0.05
    return (spot_per_mwh(int((second - MIDNIGHT) // 900)) / 1000.0 + grid) * (1.0 + VAT)


def write_prices(path: Path) -> None:
    first = datetime.fromtimestamp(MIDNIGHT - 3600, UTC)
    quarters = range(-4, DAY_SECONDS // 900 + 8)
    rows = [
        {"start": (first + timedelta(minutes=15 * (quarter + 4))).isoformat(), "eur_mwh": spot_per_mwh(quarter)}
        for quarter in quarters
    ]
    path.write_text(json.dumps({"prices": rows}))


CONFIG = """
state: {{dir: {state}}}
polling: {{interval: 20s}}
accelerators: [simulated]
host: {{meters: []}}
discovery: {{processes: false}}
servers:
  - {{name: chat, url: "{chat}", engine: vllm, gpus: [0, 1]}}
  - {{name: code, url: "{code}", engine: vllm, gpus: [2]}}
facility: {{pue: 1.25}}
tariff:
  currency: EUR
  timezone: Europe/Berlin
  vat: 0.19
  energy: {{kind: intervals, file: {prices}, rows: prices, time: start, price: eur_mwh, per: MWh}}
  grid:
    kind: time_of_use
    price_per_kwh: 0.05
    zones: [{{price_per_kwh: 0.09, hours: "17:00-20:00"}}]
  fixed: {{per_day: 2.4}}
costs:
  hardware: {{price_per_gpu: 30000, years: 4, residual: 0.2}}
references:
  - {{name: rented, price_per_gpu_hour: 2.69}}
carbon: {{kind: static, grams_per_kwh: 380, basis: average_lifecycle}}
"""


@dataclass(frozen=True)
class Lived:
    config: Path
    page: Page


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    directory = tmp_path_factory.mktemp("day")
    state, prices, config_file = directory / "state", directory / "prices.json", directory / "config.yaml"
    write_prices(prices)
    clock = Clock(START)
    meter = ExactMeter(TRUTH, clock)
    with (
        serving(ExactServer("chat", MODELS["chat"], TRUTH, clock)) as chat,
        serving(ExactServer("code", MODELS["code"], TRUTH, clock)) as code,
    ):
        config_file.write_text(CONFIG.format(state=state, chat=chat, code=code, prices=prices))
        config = load_file(str(config_file))
        live(config, BooksFile(state, clock.wall), meter, TRUTH, clock, from_tick=0, to_tick=STOPPED)
        last = live(config, BooksFile(state, clock.wall), meter, TRUTH, clock, from_tick=STARTED, to_tick=TICKS)
    page = parse(Rendered().body(last.snapshot, Format.TEXT).decode())
    return Lived(config_file, page)


# --------------------------------------------------------------------------------------------------- the other reckoning


Key = tuple[str, str, str, str, str]
"""Local hour, server, model, state, GPU."""


@pytest.fixture(scope="module")
def truth() -> dict[Key, dict[str, float]]:
    """The day again, second by second, without a line of the ledger."""
    sums: dict[Key, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for second in range(TICKS * TICK_SECONDS):
        at, tick = START + second, second // TICK_SECONDS
        hour = (
            datetime.fromtimestamp(at, UTC).astimezone(ZONE).replace(minute=0, second=0).isoformat(timespec="minutes")
        )
        price = price_at(at)
        work = {name: work_of(name, tick) for name in OWNERS}
        for gpu in range(GPUS):
            server = next((name for name, gpus in OWNERS.items() if gpu in gpus and work[name].up), "")
            state = "idle" if not server else "active" if work[server].running else "parked"
            joules = watts_of(gpu, tick)
            kwh = joules * PUE / 3.6e6
            row = sums[hour, server, MODELS.get(server, ""), state, str(gpu)]
            row["seconds"] += 1.0
            row["joules"] += joules
            row["kwh"] += kwh
            row["energy"] += kwh * max(0.0, price)
            row["credit"] += kwh * max(0.0, -price)
            row["grams"] += kwh * GRAMS_PER_KWH
            row["hardware"] += HARDWARE_PER_SECOND
            row["fixed"] += FIXED_PER_DAY * (1.0 + VAT) / 86400.0 / GPUS
            if server:
                sums[hour, server, MODELS[server], "active", ""]["rented"] += RENTED_PER_HOUR / 3600.0
        for name, done in work.items():
            row = sums[hour, name, MODELS[name], "active", ""]
            for what in ("computed", "cached", "output", "requests"):
                row[what] += getattr(done, what) / TICK_SECONDS
    return sums


def summed(truth: dict[Key, dict[str, float]], what: str, **where: str) -> float:
    names = ("hour", "server", "model", "state", "gpu")
    return sum(
        row[what]
        for key, row in truth.items()
        if all(key[names.index(name)].startswith(value) for name, value in where.items())
    )


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def report(day: Lived, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["report", f"--config.file={day.config}", "--from=2026-10-24", "--to=2026-10-26", *words]) == 0
    return capsys.readouterr().out


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


COLUMNS = {
    "gpu_seconds": "seconds",
    "energy_facility_kwh": "kwh",
    "emissions_average_lifecycle_grams": "grams",
    "cost_energy": "energy",
    "credit": "credit",
    "cost_hardware": "hardware",
    "cost_fixed": "fixed",
    "tokens_input": "computed",
    "tokens_cached_input": "cached",
    "tokens_output": "output",
    "requests": "requests",
    "reference_cost_rented": "rented",
}


def test_the_day_has_all_there_is(truth: dict[Key, dict[str, float]]) -> None:
    """A day on which nothing was parked, idle or below zero would prove little."""
    for state in ("active", "parked", "idle"):
        assert summed(truth, "seconds", state=state) > 3600.0
    assert summed(truth, "credit") > 0.1
    assert len({hour for hour, *_ in truth}) == 27  # ten seconds of the day before, 25 hours, ten of the day after


def test_every_number_of_the_finest_report_is_that_of_the_seconds(
    day: Lived, truth: dict[Key, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(report(day, capsys, "--format=csv", "--by=hour,server,model,state,gpu"))

    by_key = {(row["hour"], row["server"], row["model"], row["state"], row["gpu"]): row for row in found}
    assert len(by_key) == len(found)
    assert by_key.keys() == {key for key, row in truth.items() if any(row.values())}
    for key, row in by_key.items():
        for column, what in COLUMNS.items():
            assert float(row[column] or 0.0) == close(truth[key][what]), (key, column)
        assert float(row["energy_gpu_kwh"]) * 3.6e6 == close(truth[key]["joules"])


@pytest.mark.parametrize("by", ["day,server,model,state", "server", "month", "state,gpu", "day,component", "hour"])
def test_reports_by_whatever_sum_to_the_seconds(
    by: str, day: Lived, truth: dict[Key, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(report(day, capsys, "--format=csv", f"--by={by}"))

    for column, what in COLUMNS.items():
        assert sum(float(row[column] or 0.0) for row in found) == close(summed(truth, what)), column


def test_the_local_day_has_its_25_hours_and_no_second_of_its_neighbours(
    day: Lived, truth: dict[Key, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = {row["day"]: row for row in rows(report(day, capsys, "--format=csv", "--by=day"))}

    assert [row["day"] for row in found.values()] == ["2026-10-24", "2026-10-25", "2026-10-26"]
    assert float(found["2026-10-24"]["gpu_seconds"]) == close(10.0 * GPUS)
    assert float(found["2026-10-25"]["gpu_seconds"]) == close(25.0 * 3600.0 * GPUS)
    assert float(found["2026-10-25"]["cost_energy"]) == close(summed(truth, "energy", hour="2026-10-25"))
    assert float(found["2026-10-25"]["tokens_output"]) == close(summed(truth, "output", hour="2026-10-25"))


def test_the_page_agrees_with_the_sums_of_the_seconds(day: Lived, truth: dict[Key, dict[str, float]]) -> None:
    page = day.page
    for state in ("active", "parked", "idle"):
        assert page.sum("tpw_gpu_state_energy_joules_total", state=state) == close(summed(truth, "joules", state=state))
        assert page.sum("tpw_gpu_state_seconds_total", state=state) == close(summed(truth, "seconds", state=state))
        for component in ("energy", "hardware", "fixed"):
            cost = page.sum("tpw_gpu_state_cost_total", state=state, component=component)
            assert cost == close(summed(truth, component, state=state))
    for server in OWNERS:
        mine = {"server": server}
        for state in ("active", "parked"):
            where = {**mine, "state": state}
            energy = page.sum("tpw_server_facility_energy_joules_total", **where)
            assert energy == close(summed(truth, "kwh", **where) * 3.6e6)
            assert page.sum("tpw_server_credit_total", **where) == close(summed(truth, "credit", **where))
            assert page.sum("tpw_server_emissions_grams_total", **where) == close(summed(truth, "grams", **where))
        for kind, what in (("input", "computed"), ("cached_input", "cached"), ("output", "output")):
            assert page.value("tpw_server_tokens_total", kind=kind, **mine) == close(summed(truth, what, **mine))
        assert page.value("tpw_server_requests_total", **mine) == close(summed(truth, "requests", **mine))
        assert page.value("tpw_server_reference_cost_total", **mine) == close(summed(truth, "rented", **mine))


def test_the_totals_of_json_agree_with_the_page(day: Lived, capsys: pytest.CaptureFixture[str]) -> None:
    page, totals = day.page, json.loads(report(day, capsys, "--format=json"))["totals"]

    energy, paid_back = page.sum("tpw_gpu_state_cost_total", component="energy"), totals["credit"]
    assert totals["cost_energy"] == close(energy)
    assert totals["cost_net"] == close(page.sum("tpw_gpu_state_cost_total") - paid_back)
    assert totals["tokens_output"] == close(page.sum("tpw_server_tokens_total", kind="output"))
    per_million = (energy - paid_back) / totals["tokens_output"] * 1e6
    assert totals["cost_energy_per_million_output_tokens"] == close(per_million)
    assert totals["output_tokens_per_joule_gpu"] == close(
        totals["tokens_output"] / page.sum("tpw_gpu_energy_joules_total")
    )


def test_the_month_to_date_on_the_page_is_that_of_the_report(day: Lived, capsys: pytest.CaptureFixture[str]) -> None:
    """Over a restart, a change of the clock and the end of a week."""
    found = rows(report(day, capsys, "--format=csv", "--by=week,server,state"))

    week = max(row["week"] for row in found)
    for period, lines in (("month", found), ("week", [row for row in found if row["week"] == week])):
        for row in lines:
            name = row["server"] or f"({row['state']})"
            mine = [one for one in lines if (one["server"] or f"({one['state']})") == name]
            net = sum(float(one["cost_net"]) for one in mine)
            assert day.page.sum("tpw_period_cost", period=period, server=name) == close(net)
            kwh = sum(float(one["energy_facility_kwh"]) for one in mine)
            assert day.page.sum("tpw_period_facility_energy_joules", period=period, server=name) == close(3.6e6 * kwh)
            tokens = sum(float(one["tokens_total"]) for one in mine)
            assert day.page.sum("tpw_period_tokens", period=period, server=name) == close(tokens)
        total = sum(float(row["cost_net"]) for row in lines)
        assert day.page.sum("tpw_period_cost", period=period) == close(total)


def test_the_charges_of_focus_sum_to_the_seconds(
    day: Lived, truth: dict[Key, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    charges = rows(report(day, capsys, "--format=focus"))

    for sku, what in (("energy", "energy"), ("hardware", "hardware"), ("fixed", "fixed")):
        of_it = [row for row in charges if row["SkuId"] == sku and row["ChargeCategory"] == "Usage"]
        assert sum(float(row["BilledCost"]) for row in of_it) == close(summed(truth, what))
    kwh = sum(float(row["ConsumedQuantity"]) for row in charges if row["SkuId"] == "energy" and row["ConsumedUnit"])
    assert kwh == close(summed(truth, "kwh"))
    paid_back = [float(row["BilledCost"]) for row in charges if row["ChargeCategory"] == "Credit"]
    assert -sum(paid_back) == close(summed(truth, "credit"))
    tokens = [float(row["ConsumedQuantity"]) for row in charges if row["SkuId"] == "tokens-output"]
    assert sum(tokens) == close(summed(truth, "output"))


def test_the_check_agrees(day: Lived, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"--config.file={day.config}", "--check"]) == 0
    assert "The rows sum to the counters within 1e-09" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["", " --by=gpu,state"])
def test_the_examples_of_the_documentation_are_of_this_day(
    words: str, day: Lived, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--from=2026-10-25", "--to=2026-10-25", *words.split()]
    assert main(["report", f"--config.file={day.config}", *asked]) == 0
    shown = f"$ tpw-exporter report --from=2026-10-25 --to=2026-10-25{words}\n{capsys.readouterr().out}```"
    assert shown in DOCUMENT.read_text(encoding="utf-8")
