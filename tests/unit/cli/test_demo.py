"""The demo exports every metric of the catalogue, except those that its simulated hardware cannot have."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from support.clockwork import Clock
from support.realparts import prometheus_dir
from tpw.cli.demo import scene
from tpw.exposition.catalogue import CATALOGUE
from tpw.exposition.families import Drops, families
from tpw.exposition.process import ProcessTail
from tpw.exposition.render import Format, Page
from tpw.snapshot import Snapshot

MONDAY_NOON = 1_772_449_200.0
"""2 March 2026, 12:00 in Berlin."""

NOT_SHOWN = {
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
    "tpw_server_requests_without_usage_total",
    "tpw_server_token_anomalies_total",
    "tpw_server_work_units_total",
    "tpw_site_share_ratio",
    "tpw_source_read_failures_total",
    "tpw_store_last_write_timestamp_seconds",
    "tpw_workload_energy_joules_total",
}
"""Metrics that healthy, unpartitioned GPUs at positive prices do not have in their first minute, without books on disk,
budgets, a site and servers with separate phases."""


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
