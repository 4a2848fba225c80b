"""Planned pauses of a real daemon: what its page and status show over a night and a morning, and after a reload."""

from __future__ import annotations

from support.scraped import Page, parse
from tpw.config.load import load
from tpw.daemon import reload
from tpw.daemon.daemon import Daemon
from tpw.exposition.render import Format
from tpw.exposition.render import Page as Rendered
from tpw.exposition.status import status
from tpw.power.simulated import SimulatedMeter

START = 1_790_812_800.0
"""2026-10-01T00:00:00Z: two in the morning in Berlin."""
QUARTER = 900.0
NIGHTS = 'planned_off: [{hours: "20:00-06:00", gpus: [0]}]'


class Node:
    """A daemon with two unused GPUs, on a clock that the test moves."""

    def __init__(self, plan: str) -> None:
        self.now = START
        self.daemon = Daemon(
            self._config(plan),
            clock=lambda: self.now - START,
            wall=lambda: self.now,
            accelerators=[SimulatedMeter(gpus=2)],
        )
        self.daemon.poll_all()

    @staticmethod
    def _config(plan: str) -> object:
        return load(
            f"""
            host: {{meters: []}}
            discovery: {{processes: false}}
            tariff:
              currency: EUR
              timezone: Europe/Berlin
              energy: {{kind: flat, price_per_kwh: 0.2}}
            costs: {{hardware: {{price_per_gpu: 30000, years: 4}}}}
            {plan}
            """
        )  # type: ignore[no-any-return]

    def reload(self, plan: str) -> None:
        config = self._config(plan)
        node = self.daemon._node
        reload.apply(node, config, reload.prepare(node, config, self.now))  # type: ignore[arg-type]

    def hours(self, hours: float) -> None:
        for _ in range(round(hours * 4)):
            self.now += QUARTER
            self.daemon.tick()

    def page(self) -> Page:
        return parse(Rendered().body(self.daemon.snapshot, Format.TEXT).decode())

    def seconds(self, gpu: str, state: str) -> float:
        return self.page().sum("tpw_gpu_state_seconds_total", gpu=gpu, state=state)

    def states(self) -> list[str | None]:
        return [gpu["state"] for gpu in status(self.daemon.snapshot)["gpus"]]


def test_a_planned_night_is_no_waste_and_the_morning_is() -> None:
    node = Node(NIGHTS)
    node.hours(3)
    assert node.states() == ["planned_off", "idle"]
    node.hours(3)
    assert node.states() == ["idle", "idle"]
    assert [node.seconds("0", state) for state in ("planned_off", "idle")] == [4 * 3600.0, 2 * 3600.0]
    assert [node.seconds("1", state) for state in ("planned_off", "idle")] == [0.0, 6 * 3600.0]
    cost = [node.page().sum("tpw_gpu_state_cost_total", gpu=gpu) for gpu in "01"]
    assert cost[0] > 0.0
    assert node.page().sum("tpw_gpu_state_cost_total", gpu="0", state="planned_off") > cost[0] / 2


def test_a_plan_that_a_reload_takes_away_keeps_what_it_booked() -> None:
    node = Node(NIGHTS)
    node.hours(1)
    node.reload("")
    node.hours(1)
    assert node.states() == ["idle", "idle"]
    assert [node.seconds("0", state) for state in ("planned_off", "idle")] == [3600.0, 3600.0]
    assert node.page().sum("tpw_gpu_state_energy_joules_total") == node.page().sum("tpw_gpu_energy_joules_total")


def test_without_a_plan_no_page_has_the_state() -> None:
    node = Node("")
    node.hours(1)
    assert node.page().sum("tpw_gpu_state_seconds_total") == 2 * 3600.0
    assert 'state="planned_off"' not in Rendered().body(node.daemon.snapshot, Format.TEXT).decode()
