"""The demo exports every metric of the catalogue, except those that its simulated hardware cannot have."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from support.clockwork import Clock
from support.realparts import prometheus_dir
from tpw.cli import main
from tpw.cli.demo import Behind, scene
from tpw.exposition.catalogue import CATALOGUE
from tpw.exposition.families import Drops, families
from tpw.exposition.process import ProcessTail
from tpw.exposition.render import Format, Page
from tpw.exposition.status import status
from tpw.snapshot import Snapshot

MONDAY_NOON = 1_772_449_200.0
"""2 March 2026, 12:00 in Berlin."""

NOT_SHOWN = {
    "tpw_advice_saving_per_month",
    "tpw_books_writable",
    "tpw_budget_amount",
    "tpw_budget_projected",
    "tpw_budget_spent",
    "tpw_gpu_calibration_gain_ratio",
    "tpw_gpu_calibration_offset_watts",
    "tpw_gpu_energy_anomalies_total",
    "tpw_gpu_instance_estimated_energy_joules_total",
    "tpw_gpu_power_smoothing_floor_watts",
    "tpw_host_energy_joules_total",
    "tpw_host_power_watts",
    "tpw_period_cost_forecast",
    "tpw_period_facility_energy_forecast_joules",
    "tpw_period_tokens_forecast",
    "tpw_phase_cost_per_token",
    "tpw_phase_energy_joules_per_token",
    "tpw_server_phase_energy_error_ratio",
    "tpw_server_phase_energy_joules_total",
    "tpw_server_planned_off",
    "tpw_server_requests_without_usage_total",
    "tpw_server_slo_latency_seconds_total",
    "tpw_server_slo_requests_total",
    "tpw_server_slo_target_seconds",
    "tpw_server_token_anomalies_total",
    "tpw_server_work_units_total",
    "tpw_site_share_ratio",
    "tpw_source_read_failures_total",
    "tpw_store_last_write_timestamp_seconds",
    "tpw_workload_energy_joules_total",
    *(metric.name for metric in CATALOGUE if metric.name.startswith(("tpw_tenant_", "tpw_deployment_"))),
}
"""Metrics that healthy, unpartitioned GPUs at positive prices do not have in their first minute, without books on disk,
budgets, advice, targets of latency, deployments, planned pauses, tenants, a site and servers with separate phases."""


@pytest.fixture(scope="module")
def shown() -> Iterator[Snapshot]:
    """The demo after 70 simulated seconds."""
    clock = Clock(MONDAY_NOON)
    made = scene((), clock.monotonic, clock.wall)
    for server in made.servers:
        server.start()
    made.daemon.poll_all()
    for _ in range(70):
        clock.elapsed_seconds += 1.0
        made.daemon.tick()
    yield made.daemon.snapshot
    made.daemon.stop()
    for server in made.servers:
        server.stop()


def test_every_metric_of_the_catalogue_is_exported_or_its_absence_documented(shown: Snapshot):
    there = {family.metric.name for family in families(shown, Drops()) if family.samples}
    absent = {metric.name: metric.absent for metric in CATALOGUE if metric.name not in there}
    assert set(absent) == NOT_SHOWN
    assert [name for name, why in absent.items() if not why] == []


def test_the_day_before_the_start_has_a_night_prices_and_a_forecast(monkeypatch: pytest.MonkeyPatch):
    clock, clocks = Clock(MONDAY_NOON + 86400.0), Behind()
    monkeypatch.setattr("tpw.cli.demo.time", SimpleNamespace(monotonic=clock.monotonic, time=clock.wall))
    made = scene((), clocks.monotonic, clocks.wall)
    for server in made.servers:
        server.start()
    try:
        with capture_logs() as logs:
            clocks.play(made.daemon)
        assert (clocks.monotonic(), clocks.wall()) == (clock.monotonic(), clock.wall())
        found = status(made.daemon.snapshot)
    finally:
        made.daemon.stop()
        for server in made.servers:
            server.stop()
    assert [entry for entry in logs if entry["log_level"] != "info"] == []
    # From Monday 10:00 to Tuesday 12:00: office hours until 18:00, and from 8:00.
    chat, _, code, unused = found["gpus"]
    assert chat["states"]["active"]["seconds"] > 25 * 3600
    assert code["states"]["parked"]["seconds"] == pytest.approx(14 * 3600, rel=0.03)
    assert code["states"]["active"]["seconds"] == pytest.approx(12 * 3600, rel=0.03)
    assert unused["states"]["idle"]["seconds"] == pytest.approx(26 * 3600, rel=0.01)
    assert {gpu["unmetered_seconds"] for gpu in found["gpus"]} == {0.0}
    day, _, month = found["periods"]
    assert 0.0 < day["cost"] < month["cost"] < month["cost_forecast"]  # type: ignore[operator]
    # By day at 0.24 and 0.34, by night at 0.16.
    states = [state for gpu in found["gpus"] for state in gpu["states"].values()]
    kwh = sum(state["facility_joules"] for state in states) / 3.6e6
    assert 0.20 < sum(state["cost"].get("energy", 0.0) for state in states) / kwh < 0.25


def test_a_demo_that_is_stopped_while_it_plays_the_day_ends_well(monkeypatch: pytest.MonkeyPatch):
    def stopped(self: Behind, daemon: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Behind, "play", stopped)
    try:
        assert main(["demo", "--web.listen-address=127.0.0.1:0"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_it_has_no_warnings(shown: Snapshot):
    [note] = shown.notes
    assert note.startswith("This is the demo: ")


@pytest.mark.rules
@pytest.mark.parametrize("major", ["2", "3"])
def test_promtool_has_no_complaint(shown: Snapshot, major: str):
    promtool = prometheus_dir(major) / "promtool"  # type: ignore[arg-type]
    page = Page(ProcessTail()).body(shown, Format.TEXT)
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
