"""Failures of a GPU and its driver, and the energy that is booked then: one row per scenario.

Every scenario is a minute of ticks, a second apart with some milliseconds of jitter, through the real binding, poller,
ledger and page. The truth is the exact integral of the fake NVML. In every row no counter falls, no more is booked than was
used, missing energy lies in time that is counted as unmetered, the laws hold at the end, and a second GPU loses nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fakenvml import FakeNvml
from support.losses import HEADINGS, Loss, Losses, table
from support.node import PRICE_PER_KWH, PUE, Node
from support.scraped import Page
from tpw.model import EnergyMethod

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"
BEGIN = "<!-- begin: written by UPDATE_GOLDEN=1 pytest tests/scenarios -->"
END = "<!-- end -->"

SECONDS = 60
MAX_WATTS = 600.0
BESIDE_WATTS = 150.0
COUNTER_ERROR = 0.001
AVERAGE_ERROR = 0.01

Be = Callable[[FakeNvml], object]
Do = Callable[[Node], object]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row.

    Args:
        name: in the table of losses.
        load: power of the GPU, from before the first read on.
        prepare: properties of the GPU, set before the first read.
        events: (second, action), at seconds between two ticks, so that the order is fixed.
        method: energy method at the end.
        error: largest relative difference of booked energy from the truth of the metered time.
        unmetered: seconds that are counted as unmetered.
        anomalies: counted anomalies.
        asleep: (from, to) in seconds without ticks.
        seconds: duration.
        alone: whether the fault concerns this GPU only, not the whole driver.
        stored: the books are on disk.
    """

    name: str
    load: Be = lambda nvml: nvml.gpu(0).set_square(100.0, MAX_WATTS, 0.9, 0.4)
    prepare: Be = lambda nvml: None
    events: tuple[tuple[float, Do], ...] = ()
    method: EnergyMethod = EnergyMethod.COUNTER
    error: float = COUNTER_ERROR
    unmetered: float = 0.0
    anomalies: Mapping[str, int] = field(default_factory=dict)
    asleep: tuple[float, float] = (0.0, 0.0)
    seconds: int = SECONDS
    alone: bool = True
    stored: bool = False


def constant(watts: float) -> Be:
    return lambda nvml: nvml.gpu(0).set_constant(watts)


def square(period: float, duty: float = 0.4) -> Be:
    return lambda nvml: nvml.gpu(0).set_square(100.0, MAX_WATTS, period, duty)


def no_counter(nvml: FakeNvml) -> None:
    nvml.no_energy(0)


def instants_only(nvml: FakeNvml) -> None:
    nvml.no_energy(0)
    nvml.no_average(0)


def counter_only(nvml: FakeNvml) -> None:
    for flag in ("no_average", "no_instant", "no_usage"):
        nvml.gpu(0).flag(flag)


def init_fails(error: str) -> Do:
    def unload(n: Node) -> None:
        n.nvml.unload_driver()
        n.nvml.init_error(error)

    return unload


def supervised(n: Node) -> None:
    """The daemon has a fatal error; its supervisor restarts it with the new driver."""
    assert n.daemon._node.meters.fatal is not None
    assert "mismatch" in n.daemon._node.meters.fatal.detail
    n.nvml.load_driver()
    n.restart()


def refreshing(seconds: float) -> Be:
    return lambda nvml: nvml.gpu(0).set(refresh_seconds=seconds)


def step_back(joules: float) -> Do:
    return lambda n: n.nvml.step_back(0, joules)


def more(n: Node, watts: float) -> None:
    n.nvml.gpu(0).set_constant(watts)


def jump(seconds: float) -> Do:
    def set_clock(n: Node) -> None:
        n.wall_ahead_seconds += seconds

    return set_clock


AVERAGE = EnergyMethod.AVERAGE_POWER
INSTANT = EnergyMethod.INSTANT_POWER

SCENARIOS = [
    # ------------------------------------------------------------------------------------------- loads, counter and mean
    Scenario("constant", load=constant(300.0)),
    Scenario("square 50 ms", load=square(0.05)),
    Scenario("square 0.9 s", load=square(0.9)),
    Scenario("square 7 s", load=square(7.0)),
    Scenario("constant, no counter", constant(300.0), no_counter, method=AVERAGE, error=AVERAGE_ERROR),
    Scenario("square 50 ms, no counter", square(0.05), no_counter, method=AVERAGE, error=AVERAGE_ERROR),
    Scenario("square 0.9 s, no counter", square(0.9), no_counter, method=AVERAGE, error=AVERAGE_ERROR),
    Scenario("square 7 s, no counter", square(7.0), no_counter, method=AVERAGE, error=AVERAGE_ERROR),
    # ------------------------------------------------------------------------------------------------ the counter's faults
    Scenario(
        "counter reset", events=((20.4, lambda n: n.nvml.reset_counter(0)),), unmetered=1.0, anomalies={"reset": 1}
    ),
    Scenario(
        "backwards step",
        events=((20.4, lambda n: n.nvml.step_back(0, 5000.0)),),
        unmetered=1.0,
        anomalies={"backwards": 1},
    ),
    Scenario(
        "backwards and back",
        load=constant(300.0),
        events=((20.4, lambda n: n.nvml.step_back(0, 500.0)), (21.4, lambda n: n.nvml.step_back(0, -500.0))),
        unmetered=2.0,
        anomalies={"backwards": 1},
    ),
    Scenario(
        "forward step",
        events=((20.4, lambda n: n.nvml.step_back(0, -50_000.0)),),
        unmetered=1.0,
        anomalies={"implausible": 1},
    ),
    Scenario(
        "frozen counter",
        load=constant(300.0),
        events=((20.01, lambda n: n.nvml.freeze(0)),),
        method=AVERAGE,
        error=AVERAGE_ERROR,
        unmetered=1.0,
        anomalies={"frozen": 1},
    ),
    Scenario(
        "frozen counter, no power",
        prepare=counter_only,
        events=((20.01, lambda n: n.nvml.freeze(0)),),
        unmetered=40.0,
        anomalies={"frozen": 1},
    ),
    Scenario(
        "counter not offered any more",
        events=((20.4, lambda n: n.nvml.no_energy(0)),),
        method=AVERAGE,
        error=AVERAGE_ERROR,
        unmetered=32.0,
    ),
    # ------------------------------------------------------------------------------------------------- the sensor's faults
    Scenario(
        "zero watts",
        events=((20.4, lambda n: n.nvml.zero_watts(0)), (30.4, lambda n: n.nvml.zero_watts(0, on=False))),
        anomalies={"zero": 10},
    ),
    Scenario(
        "zero watts, no counter",
        square(0.9),
        no_counter,
        ((20.4, lambda n: n.nvml.zero_watts(0)), (30.4, lambda n: n.nvml.zero_watts(0, on=False))),
        method=AVERAGE,
        error=AVERAGE_ERROR,
        unmetered=11.0,
        anomalies={"zero": 10},
    ),
    Scenario(
        "NotSupported flicker", events=tuple((second + 0.4, lambda n: n.nvml.flicker(0)) for second in (10, 20, 30, 31))
    ),
    Scenario(
        "NotSupported flicker, no counter",
        square(0.9),
        no_counter,
        tuple((second + 0.4, lambda n: n.nvml.flicker(0)) for second in (10, 20, 30)),
        method=AVERAGE,
        error=AVERAGE_ERROR,
    ),
    Scenario(
        "stuck power sensor",
        square(7.0),
        events=((70.4, lambda n: n.nvml.stick_power(0, 100.0)),),
        anomalies={"stuck": 1},
        seconds=400,
    ),
    Scenario("counter refreshes every 1.5 s", constant(690.0), refreshing(1.5), error=0.03, seconds=59),
    Scenario("counter refreshes every 2 s", constant(690.0), refreshing(2.0), error=0.04, seconds=58),
    Scenario(
        "counter jitters by 1 mJ",
        prepare=refreshing(2.0),
        events=tuple((second + 0.2, step_back((-1) ** second * -0.001)) for second in range(10, 50)),
        error=0.04,
        seconds=58,
    ),
    Scenario(
        "power limit raised",
        events=((20.4, lambda n: (n.nvml.gpu(0).set(limit_mw=2_500_000, max_limit_mw=2_500_000), more(n, 2400.0))),),
        seconds=120,
        unmetered=3.0,
        anomalies={"implausible": 4},
    ),
    # -------------------------------------------------------------------------------------------------- faults of the GPU
    Scenario("lost and back", events=((20.4, lambda n: n.nvml.lose(0)), (30.4, lambda n: n.nvml.restore(0)))),
    Scenario(
        "lost and back, no counter",
        square(0.9),
        no_counter,
        ((20.4, lambda n: n.nvml.lose(0)), (30.4, lambda n: n.nvml.restore(0))),
        method=AVERAGE,
        error=AVERAGE_ERROR,
        unmetered=12.0,
    ),
    Scenario(
        "lost for good, no counter",
        square(0.9),
        no_counter,
        ((20.4, lambda n: n.nvml.lose(0)),),
        method=AVERAGE,
        error=AVERAGE_ERROR,
        unmetered=40.0,
    ),
    Scenario(
        "lost, reset and back",
        events=(
            (20.4, lambda n: n.nvml.lose(0)),
            (25.4, lambda n: n.nvml.reset_counter(0)),
            (30.4, lambda n: n.nvml.restore(0)),
        ),
        unmetered=12.0,
        anomalies={"reset": 1},
    ),
    Scenario("unknown error", events=((20.4, lambda n: n.nvml.unknown(0)), (28.4, lambda n: n.nvml.restore(0)))),
    Scenario("hang 5 s", events=((20.4, lambda n: n.nvml.hang(0, 5.0)),)),
    # ------------------------------------------------------------------------------------------------- the driver's faults
    Scenario(
        "init error 1",
        events=((20.4, init_fails("uninitialized")), (26.4, lambda n: n.nvml.load_driver())),
        unmetered=9.0,
        anomalies={"reset": 1},
        alone=False,
    ),
    Scenario(
        "init error 9",
        events=((20.4, lambda n: n.nvml.unload_driver()), (26.4, lambda n: n.nvml.load_driver())),
        unmetered=9.0,
        anomalies={"reset": 1},
        alone=False,
    ),
    Scenario(
        "init error 18, restarted",
        events=((20.4, init_fails("lib_rm_version_mismatch")), (26.4, supervised)),
        unmetered=6.4,
        anomalies={"reset": 1},
        alone=False,
        stored=True,
    ),
    # ---------------------------------------------------------------------------------------------- other configurations
    Scenario("UUID reorder", events=((20.4, lambda n: n.nvml.reorder([1, 2, 0])),), seconds=120),
    Scenario("MIG on", events=((20.4, lambda n: n.nvml.mig(0, [[1], [1]])),), seconds=120),
    Scenario("module scope only", prepare=lambda nvml: nvml.module_scope(0, 1.5, gpu_scope=False)),
    Scenario("no average", constant(300.0), instants_only, method=INSTANT, error=AVERAGE_ERROR),
    Scenario("no average, square 50 ms", square(0.05), instants_only, method=INSTANT, error=0.05),
    Scenario("no average, square 0.9 s", square(0.9), instants_only, method=INSTANT, error=0.03),
    Scenario("no average, square 7 s", square(7.0), instants_only, method=INSTANT, error=AVERAGE_ERROR),
    # -------------------------------------------------------------------------------------------------------------- clocks
    Scenario("suspended 5 min", asleep=(20.0, 320.0), seconds=360),
    Scenario(
        "suspended 5 min, no counter",
        square(0.9),
        no_counter,
        method=AVERAGE,
        error=AVERAGE_ERROR,
        asleep=(20.0, 320.0),
        seconds=360,
        unmetered=300.0,
    ),
    Scenario("wall clock an hour ahead", events=((20.4, jump(3600.0)),)),
    Scenario("wall clock two hours back", events=((20.4, jump(-7200.0)),)),
]


def ticks(scenario: Scenario) -> Iterator[float]:
    """Seconds since the first read, with the jitter of a scheduler."""
    for second in range(1, scenario.seconds + 1):
        if not scenario.asleep[0] < second < scenario.asleep[1]:
            yield second + 0.01 * ((0.618 * second) % 1.0 - 0.5)


def sample_until(node: Node, until: float) -> None:
    """Ten times a second on average, out of phase with the load."""
    for n in itertools.count():
        pause = 0.1 * (0.5 + (0.618 * (n + node.nvml.now())) % 1.0)
        if node.nvml.now() + pause >= until:
            return
        node.nvml.advance(pause)
        node.sample()


def never_below(before: Page, after: Page) -> None:
    """No counter of a GPU falls, even if its index changes."""
    now = {(name, nameless(labels)): value for (name, labels), value in after.counters().items()}
    for (name, labels), value in before.counters().items():
        assert now.get((name, nameless(labels)), -1.0) >= value, (name, labels)


def nameless(labels: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset(label for label in labels if label[0] != "gpu")


def laws(page: Page, uuid: str) -> None:
    """Laws 1, 2 and 3 on the page."""
    joules = page.value("tpw_gpu_energy_joules_total", uuid=uuid)
    assert page.sum("tpw_gpu_state_energy_joules_total", uuid=uuid) == pytest.approx(joules, rel=1e-12)
    idle = page.sum("tpw_gpu_state_energy_joules_total", state="idle")
    gpus = page.sum("tpw_gpu_energy_joules_total")
    assert page.sum("tpw_server_energy_joules_total") + idle == pytest.approx(gpus, rel=1e-12)
    cost = page.sum("tpw_gpu_state_cost_total", component="energy")
    assert cost == pytest.approx(gpus * PUE / 3.6e6 * PRICE_PER_KWH, rel=1e-9)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_energy(scenario: Scenario, nvml: FakeNvml, tmp_path: Path, losses: Losses) -> None:
    nvml.gpu(1).set_constant(BESIDE_WATTS)
    scenario.load(nvml)
    scenario.prepare(nvml)
    nvml.advance(2.0)
    begun = nvml.now()

    def true(start: float, end: float) -> float:
        return nvml.true_joules(0, start, end)

    with Node(nvml, tmp_path / "books" if scenario.stored else None) as node:
        due = list(scenario.events)
        page = node.page()
        unmetered = missing = 0.0
        for second in ticks(scenario):
            while due and due[0][0] <= second:
                at, action = due.pop(0)
                nvml.set_now(begun + at)
                action(node)
            if scenario.method is INSTANT:
                sample_until(node, begun + second)
            nvml.set_now(begun + second)
            nvml.utilization(0, 80 if int(second) % 20 < 10 else 0)
            node.tick()

            before, page = page, node.page()
            never_below(before, page)
            now, lost = node.daemon.snapshot.at.monotonic_seconds, node.account.unmetered_seconds - unmetered
            missing += true(now - lost, now) if lost else 0.0
            unmetered += lost
            # A mean lags by up to a second, a counter by at most its refresh interval.
            lag = 1.0 if node.account.gpu.energy_method is not EnergyMethod.COUNTER else 0.03
            assert node.booked_joules() <= true(begun, now) * (1.0 + scenario.error) + lag * 1.5 * MAX_WATTS

        end = now - node.pending_seconds()
        truth, booked = true(begun, end), node.booked_joules()
        losses[scenario.name] = Loss(str(node.account.method), truth, booked, unmetered, dict(node.account.anomalies))
        assert not due
        assert node.pending_seconds() == 0.0
        assert node.account.method is scenario.method
        assert (truth - missing) * (1.0 - scenario.error) <= booked <= truth * (1.0 + scenario.error)
        assert unmetered == pytest.approx(scenario.unmetered, abs=0.02)
        assert node.account.anomalies == scenario.anomalies
        laws(page, nvml.uuid(0))
        # Time is booked between wall instants: floats with a resolution of a quarter of a microsecond.
        assert page.sum("tpw_gpu_state_seconds_total", uuid=nvml.uuid(0)) == pytest.approx(now - begun, abs=1e-4)
        if scenario.alone:
            beside = nvml.true_joules(1, begun, now)
            assert node.booked_joules(1) == pytest.approx(beside, rel=COUNTER_ERROR)
            assert node.account_of(1).anomalies == {}


def test_every_scenario_has_a_unique_name() -> None:
    names = [scenario.name for scenario in SCENARIOS]

    assert len(names) == len(set(names))
    assert all(a < b for scenario in SCENARIOS for (a, _), (b, _) in itertools.pairwise(scenario.events))


def test_the_documented_table_matches_these_scenarios(losses: Losses) -> None:
    """docs/accuracy.md lists every scenario; after a complete run its figures are compared as well."""
    names = [scenario.name for scenario in SCENARIOS]
    ran = list(losses) == names
    if os.environ.get("UPDATE_GOLDEN") == "1":
        assert ran, "the table is written after a complete run: pytest tests/scenarios"
        head, begin, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(head + begin + "\n".join(["", *table(losses), ""]) + END + rest.partition(END)[2])
    text = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    documented = {row[0]: row[1:] for row in rows[2:]}

    assert tuple(rows[0]) == HEADINGS
    assert list(documented) == names
    for name, loss in losses.items():
        method, _, _, error, unmetered, anomalies = documented[name]
        assert (method, anomalies) == (str(loss.method), loss.cells(name)[-1])
        assert float(error) == pytest.approx(100 * loss.error, abs=0.02), name
        assert float(unmetered) == pytest.approx(loss.unmetered_seconds, abs=0.06), name
