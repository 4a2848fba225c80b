"""Feeds of prices, carbon intensity and PUE: what holds while one is down, and what ``probe`` prints of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.pageserver import Asked, PageServer, answer
from support.snapshots import rich_snapshot
from tpw.cli import probe
from tpw.config import load
from tpw.config.schema import Config
from tpw.daemon import pricing
from tpw.daemon.daemon import Daemon
from tpw.daemon.pricing import Feeds
from tpw.exposition.families import families
from tpw.ledger.books import Books
from tpw.polling import SourceHealth
from tpw.power.simulated import SimulatedMeter

NOW = 1781524800.0  # 2026-06-15T12:00Z


@dataclass
class Facility:
    """A Prometheus with a PUE, and lists of prices and of intensities. Each can be down."""

    pue: str | None = "1.25"
    prices: list[dict[str, float]] | None = field(default_factory=lambda: [{"t": NOW - 3600, "v": 0.2}])
    grams: list[dict[str, float]] | None = field(default_factory=lambda: [{"t": NOW - 3600, "v": 380.0}])

    def __call__(self, asked: Asked) -> bytes:
        if asked.path.startswith("/api/v1/query"):
            if self.pue is None:
                return answer("", status=503)
            value = {"resultType": "scalar", "result": [NOW, self.pue]}
            return answer(json.dumps({"status": "success", "data": value}))
        rows = self.prices if asked.path == "/prices" else self.grams
        return answer("gone", status=500) if rows is None else answer(json.dumps(rows))


def config(url: str, directory: Path, more: str = "") -> Config:
    rows = "time: t, time_format: unix, resolution: 6h"
    return load(
        f"""
        host: {{meters: []}}
        discovery: {{processes: false}}
        state: {{dir: {directory}}}
        facility: {{pue: {{url: '{url}', query: pue, fallback: 1.4}}}}
        tariff: {{currency: EUR, energy: {{kind: intervals, url: '{url}/prices', price: v, {rows}{more}}}}}
        carbon: {{kind: intervals, url: '{url}/grams', value: v, {rows}, basis: average_direct}}
        """
    )


def test_a_pue_that_cannot_be_read_is_the_fallback_until_it_can(tmp_path: Path) -> None:
    """For how long the last value would have held is not known."""
    facility = Facility()
    with PageServer(facility) as server, capture_logs() as log:
        settings = config(server.url, tmp_path)
        feeds = Feeds(settings, lambda name: SourceHealth(name, wall=lambda: NOW), lambda: NOW)
        assert feeds.facts.pue == 1.4, "nothing was read yet"
        assert feeds.read_all(NOW).pue == 1.25
        assert pricing.policy(settings, feeds.facts).pue == 1.25
        for broken in (None, "NaN", "0.3"):
            facility.pue = broken
            assert feeds.read_all(NOW).pue == 1.4
            status = next(status for status in feeds.statuses() if status.name == "pue")
            assert (status.up, bool(status.detail)) == (False, True)
        facility.pue = "1.27"
        assert feeds.read_all(NOW).pue == 1.27
        assert all(status.up for status in feeds.statuses())
        feeds.close()
    assert [entry["event"] for entry in log if entry.get("source") == "pue"].count("source_up") == 2
    assert [entry["reason"] for entry in log if entry["event"] == "source_down"] == ["loading", "absent", "malformed"]


def test_one_feed_that_is_down_does_not_affect_the_others(tmp_path: Path) -> None:
    facility = Facility(prices=None)
    with PageServer(facility) as server:
        feeds = Feeds(config(server.url, tmp_path), lambda name: SourceHealth(name, wall=lambda: NOW), lambda: NOW)
        facts = feeds.read_all(NOW)
        feeds.close()
    assert facts.pue == 1.25
    assert facts.intensities is not None
    assert facts.intensities.at(NOW) is not None
    assert facts.carbon_basis == "average_direct"
    assert facts.curve is not None
    assert facts.curve.at(NOW) is None
    assert [(status.name, status.up) for status in feeds.statuses()] == [
        ("tariff", False),
        ("carbon", True),
        ("pue", True),
    ]


def test_a_feed_that_is_down_is_down_in_the_metrics(tmp_path: Path) -> None:
    with PageServer(Facility(pue=None, grams=None)) as server:
        daemon = Daemon(config(server.url, tmp_path), wall=lambda: NOW, accelerators=[SimulatedMeter(gpus=1)])
        daemon.poll_all()
        daemon.stop()
    page = {metric.name: dict(samples) for metric, samples in families(daemon.snapshot)}
    up = {name[0]: value for name, value in page["tpw_source_up"].items()}
    assert (up["tariff"], up["carbon"], up["pue"]) == (1.0, 0.0, 0.0)
    assert page["tpw_facility_pue_ratio"] == {(): 1.4}


# -------------------------------------------------------------------------------------------------------------------- probe


def probed(settings: Config, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str]:
    daemon = Daemon(settings, wall=lambda: NOW, accelerators=[SimulatedMeter(gpus=1)])
    daemon.poll_all()
    seen = probe.findings(daemon.snapshot, daemon.holders(), settings)
    daemon.stop()
    probe._print(seen)
    return json.loads(json.dumps(seen)), capsys.readouterr().out


def test_a_market_that_publishes_after_the_fact_has_a_live_price_until_its_hold_ends(tmp_path: Path) -> None:
    """The last price an hour ago, then the real one, then nothing for longer than the hold."""
    facility, now = Facility(prices=[{"t": NOW - 7 * 3600, "v": 0.2}]), [NOW]
    with PageServer(facility) as server:
        settings = config(server.url, tmp_path, ", hold: 2h")
        feeds = Feeds(settings, lambda name: SourceHealth(name, wall=lambda: now[0]), lambda: now[0])
        seen = []
        for hours, prices in ((0.0, facility.prices), (1.0, [{"t": NOW - 3600, "v": 0.3}]), (7.5, None)):
            now[0], facility.prices = NOW + hours * 3600, prices
            feeds.read("tariff", now[0])
            at = pricing.Pricing(settings, feeds).prices(Books(), now[0])
            snapshot = replace(rich_snapshot(), prices=at)
            page = {family.metric.name: dict(family.samples) for family in families(snapshot)}
            [[state]] = page["tpw_electricity_price_state"]
            seen.append((state, page.get("tpw_electricity_price_per_kwh", {}).get(("EUR",)), at.preliminary))
        feeds.close()
    assert seen == [("preliminary", 0.2, 0.2), ("final", 0.3, None), ("missing", None, None)]


def test_probe_prints_price_carbon_and_pue_with_their_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with PageServer(Facility()) as server:
        seen, printed = probed(config(server.url, tmp_path), capsys)
    assert seen["price"] == {"per_kwh": 0.2, "currency": "EUR", "state": "final", "source": "intervals", "why_not": ""}
    assert seen["carbon"] == {
        "grams_per_kwh": 380.0,
        "basis": "average_direct",
        "source": "intervals",
        "why_not": "",
    }
    assert seen["pue"] == {"ratio": 1.25, "source": "query", "why_not": ""}
    assert "price: 0.2 EUR/kWh (final), from intervals\n" in printed
    assert "carbon: 380 g/kWh (average_direct), from intervals\n" in printed
    assert "PUE: 1.25, from the query\n" in printed


def test_probe_prints_why_a_value_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PageServer(Facility(None, None, None)) as server:
        _, printed = probed(config(server.url, tmp_path), capsys)
        _, fallen_back = probed(config(server.url, tmp_path, ", fallback_price_per_kwh: 0.3"), capsys)
    gone = f"; source down: {server.url}/{{}}: HTTP 500: gone\n"
    assert f"price: unknown, from intervals{gone.format('prices')}" in printed
    assert f"carbon: unknown, from intervals{gone.format('grams')}" in printed
    assert "PUE: 1.4, from the configuration; source down: " in printed
    assert f"price: 0.3 EUR/kWh (fallback), from intervals{gone.format('prices')}" in fallen_back


def test_probe_without_tariff_carbon_or_query(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load("{host: {meters: []}, discovery: {processes: false}, facility: {pue: 1.3}}")
    seen, printed = probed(settings, capsys)
    assert (seen["price"], seen["carbon"]) == (None, None)
    assert "price: no tariff is configured\n" in printed
    assert "PUE: 1.3, from the configuration\n" in printed
    assert "carbon" not in printed


def test_the_limits_of_a_server_are_its_own_or_those_of_all() -> None:
    config = load(
        """\
polling: {plausibility: {tokens_per_second: 7.0}}
servers:
  - {name: chat, url: "http://127.0.0.1:1"}
  - {name: gateway, url: "http://127.0.0.1:2", plausibility: {tokens_per_second: 9.0}}
"""
    )
    policy = pricing.policy(config, Feeds(config, SourceHealth, lambda: NOW).facts)
    assert policy.limits.tokens_per_second == 7.0
    assert {name: limits.tokens_per_second for name, limits in policy.limits.by_server.items()} == {"gateway": 9.0}
