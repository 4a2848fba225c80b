"""``/api/v1/prices`` and ``tpw-exporter prices``: prices ahead, their rank, and windows, also on days of 23 and 25 hours,
with gaps and fallbacks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from support.snapshots import empty_snapshot, rich_snapshot
from tpw.carbon import Intensity
from tpw.carbon.curve import IntensityCurve
from tpw.cli import main
from tpw.config.load import load
from tpw.exposition.ahead import ahead, moment
from tpw.exposition.families import Drops, families
from tpw.exposition.http1 import Request
from tpw.exposition.render import Page
from tpw.exposition.serving import Server
from tpw.exposition.web import Web
from tpw.model import Instant, PriceInterval, PriceState
from tpw.snapshot import Carbon, Prices, Snapshot
from tpw.tariff.context import FeedContext
from tpw.tariff.curve import PriceCurve

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0
ZONES = """
tariff:
  currency: EUR
  timezone: Europe/Berlin
  energy:
    kind: time_of_use
    price_per_kwh: 0.24
    zones:
      - {price_per_kwh: 0.10, hours: "02:00-05:00"}
      - {price_per_kwh: 0.31, hours: "06:00-09:00"}
      - {price_per_kwh: 0.20, hours: "13:00-15:30"}
      - {price_per_kwh: 0.34, hours: "17:00-20:00"}
"""


def at(local: str) -> float:
    return datetime.fromisoformat(local).replace(tzinfo=BERLIN).timestamp()


def with_prices(now: float, intervals: Sequence[PriceInterval], grams: Sequence[Intensity] = ()) -> Snapshot:
    curve = PriceCurve.from_intervals(intervals)
    snapshot = empty_snapshot()
    instant = Instant(1000.0, now)
    return replace(
        snapshot,
        at=instant,
        books=replace(snapshot.books, at=instant),
        prices=Prices("EUR", curve.at(now), curve.next_change(now), curve, "Europe/Berlin"),
        carbon=Carbon("average_direct", 1.0, IntensityCurve.from_intervals(grams)) if grams else None,
    )


def by_hour(now: float, prices: Sequence[float | None], state: PriceState = PriceState.FINAL) -> list[PriceInterval]:
    return [
        PriceInterval(now + n * HOUR, now + (n + 1) * HOUR, price, state)
        for n, price in enumerate(prices)
        if price is not None
    ]


def windows_of(snapshot: Snapshot, **asked: str) -> Any:
    found = ahead(snapshot, **asked)["windows"]
    assert found is not None
    return found


@pytest.mark.parametrize("day", ["2026-03-28T11:20", "2026-03-29T00:10", "2026-10-24T22:30", "2026-10-25T00:40"])
@pytest.mark.parametrize("hours", ["1", "3", "7.5"])
def test_the_cheapest_window_of_a_contract_is_that_of_a_search_across_a_change_of_the_clocks(day: str, hours: str):
    now = at(day)
    source = load(ZONES).tariff.prices(FeedContext(lambda: now))
    assert source is not None
    found = windows_of(with_prices(now, source.intervals(now - HOUR, now + 48 * HOUR)), hours=hours, before="22:00")
    deadline = at(found_local(found["before"]))
    assert found_local(deadline).endswith("22:00")

    def price(instant: float) -> float:
        local = datetime.fromtimestamp(instant, BERLIN)
        hour = local.hour + local.minute / 60.0
        zones = ((2, 5, 0.10), (6, 9, 0.31), (13, 15.5, 0.20), (17, 20, 0.34))
        return next((one for begin, end, one in zones if begin <= hour < end), 0.24)

    ten = 600.0
    steps = round(float(hours) * HOUR / ten)
    starts = [now + n * ten for n in range(int((deadline - now) / ten) - steps + 1)]
    means = {start: sum(price(start + n * ten) for n in range(steps)) / steps for start in starts}
    best = min(means.values())
    cheapest = found["cheapest"]
    assert cheapest["per_kwh"] == pytest.approx(best)
    assert cheapest["start"] == next(start for start, mean in means.items() if mean < best + 1e-9)
    assert found["now"]["per_kwh"] == pytest.approx(means[now])


def found_local(instant: float) -> str:
    return datetime.fromtimestamp(instant, BERLIN).strftime("%Y-%m-%dT%H:%M")


def test_a_fallback_and_a_gap_are_in_no_window():
    now = at("2026-06-01T00:00")
    prices = [
        *by_hour(now, [0.30, 0.10, None, 0.20, 0.20]),
        *by_hour(now + 5 * HOUR, [0.01, 0.01], PriceState.FALLBACK),
    ]
    snapshot = with_prices(now, prices)
    found = windows_of(snapshot, hours="2")
    assert found["cheapest"]["start"] == now  # 0.20 as later, and first
    assert found["now"]["per_kwh"] == pytest.approx(0.20)
    assert windows_of(snapshot, hours="3")["cheapest"] is None
    assert [one["state"] for one in ahead(snapshot)["prices"]] == ["final", "final", "final", "fallback"]


def test_the_cleanest_window_and_what_each_window_costs_and_emits():
    now = at("2026-06-01T00:00")
    grams = [Intensity(now + n * HOUR, now + (n + 1) * HOUR, 400.0 - 50.0 * n) for n in range(6)]
    prices = by_hour(now, [0.10, 0.10, 0.20, 0.20])
    found = windows_of(with_prices(now, [*prices[:3], replace(prices[3], state=PriceState.FORECAST)], grams), hours="2")
    assert (found["cheapest"]["start"], found["cheapest"]["grams_per_kwh"]) == (now, pytest.approx(375.0))
    # Hours without a price are as clean as others.
    assert found["cleanest"] == {
        "start": now + 4 * HOUR,
        "end": now + 6 * HOUR,
        "per_kwh": None,
        "grams_per_kwh": pytest.approx(175.0),
        "state": None,
    }
    before = windows_of(
        with_prices(now, by_hour(now, [0.1] * 4, PriceState.PRELIMINARY), grams), hours="2", before="04:00"
    )
    assert (before["cleanest"]["start"], before["cleanest"]["state"]) == (now + 2 * HOUR, "preliminary")


def test_a_price_with_steps_is_that_of_the_next_kwh_of_its_month():
    now = at("2026-06-30T22:00")
    june, july = at("2026-06-01T00:00"), at("2026-07-01T00:00")
    prices = [
        PriceInterval(now, july, 0.30, steps=((100.0, -0.25),), month_start_seconds=june),
        PriceInterval(july, july + 4 * HOUR, 0.30, steps=((100.0, -0.25),), month_start_seconds=july),
    ]
    snapshot = with_prices(now, prices)
    snapshot = replace(snapshot, books=replace(snapshot.books, month_kwh={june: 150.0}))
    assert [round(one["per_kwh"], 9) for one in ahead(snapshot)["prices"]] == [0.05, 0.30]


@pytest.mark.parametrize(
    ("prices", "rank"),
    [
        ([0.2] * 24, 0.0),
        ([0.2, *[0.1] * 23], 23 / 24),
        ([0.2, *[0.1] * 6, *[0.3] * 17], 6 / 24),
        ([0.2, None, *[0.1] * 10], 10 / 11),
        ([0.2, *[0.1] * 6], None),
        ([None, *[0.1] * 23], None),
    ],
)
def test_the_rank_is_the_share_of_the_next_day_that_is_cheaper(prices: list[float | None], rank: float | None):
    now = at("2026-06-01T00:00")
    # Hours beyond the next 24 are not counted.
    snapshot = with_prices(now, by_hour(now, [*prices, *[None] * (24 - len(prices)), *[-1.0] * 20]))
    shown = [
        value
        for family in families(snapshot, Drops())
        if family.metric.name == "tpw_electricity_price_rank_ratio"
        for _, value in family.samples
    ]
    assert shown == ([] if rank is None else [pytest.approx(rank)])
    assert ahead(snapshot)["rank_ratio"] == (rank if rank is None else pytest.approx(rank))


def test_a_fallback_price_has_no_rank():
    now = at("2026-06-01T00:00")
    fallback = by_hour(now, [0.2], PriceState.FALLBACK)
    assert with_prices(now, [*fallback, *by_hour(now + HOUR, [0.1] * 23)]).price_rank_ratio is None
    later = by_hour(now + 10 * HOUR, [0.1] * 14, PriceState.FALLBACK)
    assert with_prices(now, [*by_hour(now, [0.2, *[0.3] * 9]), *later]).price_rank_ratio == 0.0


def test_without_a_tariff_everything_is_unknown():
    found = ahead(empty_snapshot(), hours="2")
    assert (found["currency"], found["rank_ratio"], found["prices"], found["basis"]) == (None, None, [], None)
    assert found["windows"] == {
        "hours": 2.0,
        "before": found["at"] + 48 * HOUR,
        "now": None,
        "cheapest": None,
        "cleanest": None,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("07:00", at("2026-10-25T07:00")),
        ("23:30", at("2026-10-24T23:30")),
        ("1:05", at("2026-10-25T01:05")),
        ("2026-10-26T08:00", at("2026-10-26T08:00")),
        ("2026-10-26T08:00+00:00", at("2026-10-26T09:00")),
        ("2026-10-26T08:00Z", at("2026-10-26T09:00")),
        ("1793000000", 1793000000.0),
    ],
)
def test_a_deadline_is_the_next_time_of_day_a_local_time_or_unix_seconds(text: str, expected: float):
    assert moment(text, at("2026-10-24T22:00"), "Europe/Berlin") == expected


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"hours": ["0"]}, "above 0"),
        ({"hours": ["x"]}, "above 0"),
        ({"hours": ["nan"]}, "above 0"),
        ({"hours": ["49"]}, "at most 48"),
        ({"hours": ["1"], "before": ["25:00"]}, "is no time"),
        ({"before": ["nan"]}, "is no time"),
        ({"before": ["9999-99-99"]}, "is no time"),
    ],
)
def test_what_cannot_be_answered_is_400_with_a_sentence(query: dict[str, list[str]], words: str):
    answer = Web(rich_snapshot, Page())(Request("GET", "/api/v1/prices", query, {}))
    assert (answer.status, words in answer.body.decode()) == (400, True)


def test_the_answer_is_strict_json():
    answer = Web(rich_snapshot, Page())(Request("GET", "/api/v1/prices", {}, {}))
    assert answer.status == 200
    assert json.loads(answer.body, parse_constant=pytest.fail)["windows"] is None


def test_nothing_of_it_is_loaded_while_it_is_not_asked_for():
    code = "import sys, tpw.daemon.daemon, tpw.exposition.web; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"tpw.exposition.ahead", "tpw.tariff.windows", "tpw.cli.prices"})
    assert "tpw.snapshot" in loaded


# ------------------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def url() -> Iterator[str]:
    now = at("2026-06-01T10:00")
    grams = [Intensity(now, now + 30 * HOUR, 250.0)]
    snapshot = with_prices(now, by_hour(now, [0.30, 0.20, 0.10, 0.10, 0.25, *[0.30] * 20]), grams)
    server = Server(["127.0.0.1:0"], Web(lambda: snapshot, Page()))
    server.start()
    yield f"http://127.0.0.1:{server.ports[0]}"
    server.stop()


def test_the_command_prints_when_the_cheapest_window_begins(url: str, capsys: pytest.CaptureFixture[str]):
    assert main(["prices", f"--url={url}", "--hours=2", "--begin=cheapest"]) == 0
    assert float(capsys.readouterr().out) == at("2026-06-01T12:00")
    assert main(["prices", f"--url={url}", "--hours=2", "--before=13:00", "--begin=cheapest"]) == 0
    assert float(capsys.readouterr().out) == at("2026-06-01T11:00")
    assert main(["prices", f"--url={url}", "--hours=4", "--before=13:00", "--begin=cheapest"]) == 1
    assert capsys.readouterr().out == ""
    assert main(["prices", f"--url={url}", "--hours=lots", "--begin=cheapest"]) == 1


def test_the_command_prints_tables_and_json(url: str, capsys: pytest.CaptureFixture[str]):
    assert main(["prices", f"--url={url}", "--hours=2"]) == 0
    text = capsys.readouterr().out
    for part in (
        "Mon 2026-06-01 12:00 to 2026-06-01 14:00    0.100",
        "cheapest  Mon 2026-06-01 12:00 (in 2 h)  0.100 EUR/kWh  250 g/kWh",
    ):
        assert part in text
    assert main(["prices", f"--url={url}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["windows"]["hours"] == 1.0
