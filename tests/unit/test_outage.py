"""A price feed that is down for two days: through the whole daemon, on a clock of its own."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import cos, fsum
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from support.pageserver import Asked, PageServer, answer
from tpw.config.load import load
from tpw.daemon.daemon import Daemon
from tpw.exposition.families import families
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import PostingKey
from tpw.model import Gpu, GpuSample, Sharing
from tpw.power import AcceleratorMeter
from tpw.snapshot import Snapshot
from tpw.store.files import FILE_NAME
from tpw.store.queries import rows_where
from tpw.store.sqlite import BooksFile

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 6, 15, tzinfo=UTC)
DOWN_FROM, UP_AGAIN = MONDAY + timedelta(hours=13), MONDAY + timedelta(days=2, hours=13)
KNOWN_UNTIL = datetime(2026, 6, 17, tzinfo=BERLIN)
"""The day-ahead prices of Tuesday were out when the feed went down."""
END = MONDAY + timedelta(days=3)
STEP = timedelta(minutes=5)


@dataclass
class Clock:
    """Both clocks."""

    now: datetime = MONDAY

    def wall(self) -> float:
        return self.now.timestamp()

    def monotonic(self) -> float:
        return self.now.timestamp() - MONDAY.timestamp() + 5000.0


@dataclass
class SimulatedMeter:
    """One GPU with a counter that follows the clock: 300 W, 100 W more or less."""

    clock: Clock
    name: str = "simulated"
    gpu: Gpu = field(default_factory=lambda: Gpu("GPU-0", 0, "GPU", max_power_watts=700.0))

    def open(self) -> None:
        pass

    def sweep(self) -> None:
        pass

    def close(self) -> None:
        pass

    def gpus(self) -> tuple[Gpu, ...]:
        return (self.gpu,)

    def read(self, uuid: str) -> GpuSample:
        at = self.clock.monotonic()
        return GpuSample(uuid, at, 300.0 * at - 100.0 * 900.0 * cos(at / 900.0) + 1e6, 300.0)

    def sharing(self, uuid: str) -> Sharing:
        return Sharing(frozenset({1}))


@dataclass
class Exchange:
    """A service with hourly day-ahead prices; those of tomorrow are out at 13:00 in Berlin."""

    clock: Clock
    outage: bool
    questions: int = 0

    def __call__(self, asked: Asked) -> bytes:
        self.questions += 1
        if self.outage and DOWN_FROM <= self.clock.now < UP_AGAIN:
            return answer("maintenance", status=503)
        local = self.clock.now.astimezone(BERLIN)
        tomorrow = datetime.combine(local.date() + timedelta(days=1), datetime.min.time(), BERLIN)
        until = tomorrow + timedelta(days=1 if local.hour >= 13 else 0)
        hours = int((until.timestamp() - MONDAY.timestamp()) / 3600) + 48
        rows = [{"t": MONDAY.timestamp() + (n - 48) * 3600, "p": 40.0 + 60.0 * cos(n) + (n % 24)} for n in range(hours)]
        return answer(json.dumps(rows), content_type="application/json")


@dataclass
class Course:
    """What happened: a page of metrics now and then, the log, the books at the end."""

    pages: dict[datetime, dict[tuple[str, tuple[str, ...]], float]]
    rows: dict[float, dict[PostingKey, Amounts]]
    end: Snapshot
    log: list[EventDict]
    questions: int

    def at(self, moment: datetime, name: str) -> dict[tuple[str, ...], float]:
        return {labels: value for (metric, labels), value in self.pages[moment].items() if metric == name}

    def total(self, moment: datetime, name: str) -> float:
        return fsum(self.at(moment, name).values())


def page(snapshot: Snapshot) -> dict[tuple[str, tuple[str, ...]], float]:
    return {(metric.name, labels): value for metric, samples in families(snapshot) for labels, value in samples}


def course(directory: Path, *, outage: bool, fallback: str = "") -> Course:
    """Three days, a reading every five minutes."""
    clock = Clock()
    exchange = Exchange(clock, outage)
    pages = {}
    with PageServer(exchange) as server, capture_logs() as log:
        config = load(
            f"""
            host: {{meters: []}}
            discovery: {{processes: false}}
            facility: {{pue: 1.2, host_share: false}}
            polling: {{interval: 30s}}
            state: {{dir: {directory}}}
            servers: [{{name: big, gpus: [0], model: m}}]
            tariff:
              currency: EUR
              timezone: Europe/Berlin
              vat: 0.19
              energy:
                kind: intervals
                url: {server.url}/prices
                time: t
                time_format: unix
                price: p
                per: MWh
                published_at: "13:00"
                {fallback}
            """
        )
        meters: list[AcceleratorMeter] = [SimulatedMeter(clock)]
        books = BooksFile(directory, clock.wall)
        daemon = Daemon(config, books, clock=clock.monotonic, wall=clock.wall, accelerators=meters)
        try:
            daemon.poll_all()
            while clock.now < END:
                clock.now += STEP
                daemon.read_feeds()
                daemon.tick()
                if clock.now.minute == 0:
                    pages[clock.now] = page(daemon.snapshot)
        finally:
            daemon.stop()
    with closing(sqlite3.connect(directory / FILE_NAME)) as disk:
        rows = rows_where(disk, "1", ())
    return Course(pages, rows, daemon.snapshot, log, exchange.questions)


@pytest.fixture(scope="module")
def in_time(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return course(tmp_path_factory.mktemp("in-time"), outage=False)


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return course(tmp_path_factory.mktemp("outage"), outage=True)


SOURCE = ("tariff",)
COST, ENERGY = "tpw_server_cost_total", "tpw_server_facility_energy_joules_total"


def hour(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def money(posting: Amounts) -> tuple[float, float]:
    return posting.cost.get("energy", 0.0), posting.credit


def test_a_feed_that_is_never_down_prices_everything_in_time(in_time: Course) -> None:
    assert in_time.total(END, "tpw_energy_unpriced_joules_total") == 0.0
    assert in_time.at(END, "tpw_source_up")[SOURCE] == 1.0
    assert [entry["event"] for entry in in_time.log if entry.get("source") == "tariff"] == ["source_up"]
    assert in_time.questions < 40


def test_known_prices_stay_in_use_and_the_source_is_reported_down(outage: Course, in_time: Course) -> None:
    moment = hour("2026-06-16T12:00")
    assert outage.at(moment, "tpw_source_up")[SOURCE] == 0.0
    assert outage.at(moment, "tpw_electricity_price_state") == {("final",): 1.0}
    assert outage.total(moment, "tpw_energy_unpriced_joules_total") == 0.0
    assert outage.total(moment, COST) == pytest.approx(in_time.total(moment, COST), rel=1e-12)
    assert outage.total(moment, COST) > 0.1


def test_then_there_is_no_price_and_what_is_used_is_counted_as_unpriced(outage: Course) -> None:
    before, later = KNOWN_UNTIL.astimezone(UTC), hour("2026-06-17T10:00")
    assert outage.at(later, "tpw_source_up")[SOURCE] == 0.0
    assert outage.at(later, "tpw_electricity_price_state") == {("missing",): 1.0}
    assert outage.at(later, "tpw_electricity_price_per_kwh") == {}
    assert outage.total(later, COST) == outage.total(before, COST)
    used = outage.total(later, ENERGY) - outage.total(before, ENERGY)
    assert used == pytest.approx(12 * 3600 * 300 * 1.2, rel=0.02)
    assert outage.total(later, "tpw_energy_unpriced_joules_total") == pytest.approx(used, rel=1e-9)
    assert outage.total(later, "tpw_energy_late_priced_joules_total") == 0.0


def test_when_the_feed_is_back_what_waited_costs_what_it_would_have_cost(outage: Course, in_time: Course) -> None:
    unpriced = outage.total(END, "tpw_energy_unpriced_joules_total")
    assert unpriced > 13 * 3600 * 200
    assert outage.total(END, "tpw_energy_late_priced_joules_total") == pytest.approx(unpriced, rel=1e-9)
    assert outage.at(END, "tpw_electricity_price_state") == {("final",): 1.0}
    for key, posting in in_time.end.books.postings.items():
        assert money(outage.end.books.postings[key]) == pytest.approx(money(posting), rel=1e-9)
    assert min(posting.credit for posting in in_time.end.books.postings.values()) > 0.0, "some prices are negative"
    assert outage.rows.keys() == in_time.rows.keys()
    for start, row in in_time.rows.items():
        for key, posting in row.items():
            late = outage.rows[start][key]
            assert money(late) == pytest.approx(money(posting), rel=1e-9, abs=1e-15)
            assert late.unpriced_joules == 0.0


def test_no_counter_falls_meanwhile(outage: Course) -> None:
    moments = sorted(outage.pages)
    for before, after in pairwise(moments):
        for key, value in outage.pages[before].items():
            if key[0].endswith("_total"):
                assert outage.pages[after][key] >= value, key


def test_the_log_has_one_down_and_one_up(outage: Course) -> None:
    entries = [entry for entry in outage.log if entry.get("source") == "tariff"]
    assert [entry["event"] for entry in entries] == ["source_up", "source_down", "source_up"]
    assert "HTTP 503: maintenance" in entries[1]["detail"]
    assert [entry for entry in outage.log if entry["log_level"] in {"error", "critical"}] == []


def test_a_service_that_is_down_is_not_hammered(outage: Course) -> None:
    """At most once an hour, after the first failures."""
    assert outage.questions < 80


@pytest.fixture(scope="module")
def with_fallback(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return course(tmp_path_factory.mktemp("fallback"), outage=True, fallback="fallback_price_per_kwh: 0.5")


def test_a_fallback_prices_it_at_once_and_for_good(with_fallback: Course) -> None:
    before, later = KNOWN_UNTIL.astimezone(UTC), hour("2026-06-17T10:00")
    assert with_fallback.at(later, "tpw_source_up")[SOURCE] == 0.0
    assert with_fallback.at(later, "tpw_electricity_price_state") == {("fallback",): 1.0}
    assert with_fallback.at(later, "tpw_electricity_price_per_kwh") == {("EUR",): pytest.approx(0.5 * 1.19)}
    used = with_fallback.total(later, ENERGY) - with_fallback.total(before, ENERGY)
    paid = with_fallback.total(later, COST) - with_fallback.total(before, COST)
    assert paid == pytest.approx(used / 3.6e6 * 0.5 * 1.19, rel=1e-9)
    assert with_fallback.total(END, "tpw_energy_unpriced_joules_total") == 0.0
    assert with_fallback.at(END, "tpw_electricity_price_state") == {("final",): 1.0}
    row = with_fallback.rows[hour("2026-06-17T03:00").timestamp()]
    (posting,) = row.values()
    assert posting.cost["energy"] == pytest.approx(posting.facility_joules / 3.6e6 * 0.5 * 1.19, rel=1e-9)
