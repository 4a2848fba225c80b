"""The host's share: which meters count, that none counts twice, and how a node's lumps are given out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.ledger.advance import advance
from tpw.ledger.books import Books, HostShare
from tpw.ledger.host import counted_components, excess
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Gpu,
    GpuSample,
    HostMethod,
    HostSample,
    Instant,
    PowerScope,
)

NODE, COMPONENTS, IN_GPUS, NONE = HostMethod.NODE, HostMethod.COMPONENTS, HostMethod.IN_GPUS, HostMethod.NONE
GPU = Gpu("GPU-0", 0, max_power_watts=1000.0)


@pytest.mark.parametrize(
    ("components", "module", "method", "names"),
    [
        ((), False, NONE, ()),
        (("cpu",), False, COMPONENTS, ("cpu",)),
        (("dram", "cpu"), False, COMPONENTS, ("cpu", "dram")),
        (("psys", "cpu", "dram"), False, COMPONENTS, ("psys",)),
        (("core", "uncore", "cpu"), False, COMPONENTS, ("cpu",)),
        (("core",), False, NONE, ()),
        (("node", "cpu", "dram"), False, NODE, ("node",)),
        (("node", "psys"), False, NODE, ("node",)),
        (("cpu",), True, IN_GPUS, ()),
        (("psys", "cpu"), True, IN_GPUS, ()),
        (("node", "cpu"), True, NODE, ("node",)),
        ((), True, NONE, ()),
    ],
)
def test_what_lies_in_another_meter_is_not_counted_beside_it(
    components: tuple[str, ...], module: bool, method: HostMethod, names: tuple[str, ...]
) -> None:
    assert counted_components(components, gpus_hold_cpu=module) == (method, names)


@pytest.mark.parametrize(
    ("node", "booked", "owed", "expected"),
    [
        (1000.0, 700.0, 0.0, (300.0, 0.0)),
        (1000.0, 700.0, 100.0, (200.0, 0.0)),
        (1000.0, 1200.0, 0.0, (0.0, 200.0)),
        (1000.0, 1000.0, 50.0, (0.0, 50.0)),
    ],
)
def test_a_node_less_what_is_booked_is_the_host_and_a_deficit_is_owed(
    node: float, booked: float, owed: float, expected: tuple[float, float]
) -> None:
    assert excess(node, booked, owed) == expected


@given(st.lists(st.tuples(st.floats(0.0, 1e4), st.floats(0.0, 1e4)), max_size=20))
def test_host_and_gpus_together_never_exceed_the_node(intervals: list[tuple[float, float]]) -> None:
    node = gpus = host = owed = 0.0
    for used, booked in intervals:
        given_now, owed = excess(used, booked, owed)
        node, gpus, host = node + used, gpus + booked, host + given_now
        assert given_now >= 0.0
        assert owed >= 0.0
        assert not (given_now and owed)
        # Above the node only by the GPUs' own meters, and exactly that is owed.
        assert host + gpus == pytest.approx(node + owed)


class Machine:
    """A machine and its books."""

    def __init__(self, gpu: Gpu = GPU, policy: Policy | None = None) -> None:
        self.gpu, self.policy = gpu, policy or Policy(pue=1.0)
        self.books = Books()
        self.at = self.gpu_joules = self.node_at = 0.0
        self.node: float | None = None

    def tick(self, watts: float = 0.0, *, seconds: float = 1.0, heard: bool = True, **components: float) -> None:
        """A tick with readings of these counters, after ``seconds`` at ``watts`` of the GPU."""
        self.at += seconds
        self.gpu_joules += watts * seconds
        hosts = tuple(HostSample(name, self.at, energy_joules=joules) for name, joules in components.items())
        sample = GpuSample(self.gpu.uuid, self.at, self.gpu_joules, watts or None)
        reading = AcceleratorReading((self.gpu,), (sample,) if heard else ())
        tick = Tick(Instant(self.at, 1e9 + self.at), reading, hosts)
        self.books = advance(self.books, tick, self.policy)

    @property
    def booked_gpu_joules(self) -> float:
        return math.fsum(posting.joules for posting in self.books.postings.values())

    @property
    def host(self) -> float:
        """What of the host was booked."""
        return math.fsum(posting.facility_joules for posting in self.books.postings.values()) - self.booked_gpu_joules


def test_without_a_node_meter_the_host_is_its_cpu_and_memory() -> None:
    machine = Machine()
    for n in range(4):
        machine.tick(400.0, cpu=150.0 * n, dram=30.0 * n)

    assert machine.books.host_share.method is COMPONENTS
    assert machine.host == pytest.approx(3 * 180.0)


def test_with_a_node_meter_cpu_and_memory_are_not_added() -> None:
    """1000 W in all, 400 W of them the GPU's: 600 W are the host's, for any reading of the CPU's meter."""
    machine = Machine()
    machine.tick(400.0, node=0.0, cpu=0.0)
    for n in range(1, 91):
        read = {"node": 1000.0 * n} if n % 30 == 0 else {}
        machine.tick(400.0, cpu=150.0 * n, **read)

    assert machine.books.host_share.method is NODE
    # The last lump is there, and is given out over the next half minute.
    assert machine.host + machine.books.host_carry_joules == pytest.approx(90 * 600.0)
    assert machine.host == pytest.approx(60 * 600.0 + 600.0, rel=0.01)


def test_a_nodes_lump_is_released_evenly_over_as_long_as_it_covers() -> None:
    machine = Machine()
    machine.tick(400.0, node=0.0)
    for _ in range(29):
        machine.tick(400.0)
    assert machine.host == 0.0
    machine.tick(400.0, node=30 * 1000.0)
    steps = [machine.host]
    for _ in range(29):
        machine.tick(400.0)
        steps.append(machine.host)

    assert steps == pytest.approx([600.0 * (n + 1) for n in range(30)])


def test_on_a_superchip_the_gpus_joules_include_the_cpu() -> None:
    machine = Machine(replace(GPU, power_scope=PowerScope.MODULE))
    for n in range(4):
        machine.tick(400.0, cpu=150.0 * n)

    assert machine.books.host_share.method is IN_GPUS
    assert machine.host == 0.0


def test_the_cpu_of_a_superchip_that_is_lost_for_a_while_comes_with_its_counter_and_is_not_added() -> None:
    machine = Machine(replace(GPU, power_scope=PowerScope.MODULE))
    machine.tick(400.0, cpu=0.0)
    for n in range(1, 11):
        machine.tick(400.0, heard=n not in (4, 5, 6), cpu=150.0 * n)

    assert machine.host == 0.0


def test_a_node_meter_that_falls_silent_leaves_the_host_to_its_components_and_nothing_is_booked_twice() -> None:
    machine = Machine()
    machine.tick(400.0, node=0.0, cpu=0.0)
    machine.tick(400.0, node=1000.0, cpu=100.0)
    for n in range(2, 302):
        machine.tick(400.0, cpu=100.0 * n)
    assert machine.books.host_share.method is COMPONENTS
    machine.tick(400.0, node=302 * 1000.0, cpu=30_200.0)  # its counter went on counting

    assert machine.books.host_share.method is NODE
    assert machine.host + machine.books.host_carry_joules == pytest.approx(302 * 600.0)


def test_a_node_that_is_read_every_five_minutes_is_there_between_its_readings() -> None:
    machine = Machine()
    machine.tick(400.0, node=0.0, cpu=0.0)
    methods = set()
    for n in range(1, 901):
        read = {"node": 1000.0 * n} if n % 300 == 0 else {}
        machine.tick(400.0, cpu=100.0 * n, **read)
        if n > 300:
            methods.add(machine.books.host_share.method)

    assert methods == {NODE}


def test_a_node_below_its_gpus_yields_no_host_energy_and_pays_back_first() -> None:
    machine = Machine()
    machine.tick(400.0, node=0.0)
    machine.tick(400.0, node=300.0)  # the controller lags behind
    assert (machine.host, machine.books.host_share.owed_joules) == (0.0, 100.0)
    machine.tick(400.0, node=1000.0)
    machine.tick(400.0)

    assert machine.books.host_share.owed_joules == 0.0
    assert machine.host == pytest.approx(1000.0 - 800.0)


def test_gpu_energy_from_before_the_first_reading_of_the_node_is_not_subtracted_from_it() -> None:
    """A GPU that was lost when the daemon started reports hours at once: hours that the node's readings do not cover."""
    machine = Machine()
    machine.tick(node=0.0)
    for _ in range(3600):
        machine.tick(500.0, heard=False)
    machine.books = replace(machine.books, resumed=True, hosts={}, host_share=HostShare())
    for second in range(1, 91):
        node = {"node": 700.0 * second} if second % 30 == 0 else {}
        machine.tick(500.0, heard=second >= 45, **node)
    for _ in range(30):
        machine.tick(500.0)
    assert machine.booked_gpu_joules == pytest.approx(500.0 * 3720)
    assert machine.host == pytest.approx(200.0 * 60)


def test_an_implausible_reading_of_a_node_is_ignored() -> None:
    machine = Machine()
    machine.tick(400.0, node=0.0)
    machine.tick(400.0, node=9e9)
    machine.tick(400.0, node=9e9 + 1000.0)

    assert machine.host == pytest.approx(600.0)


def test_the_configuration_can_leave_the_host_out() -> None:
    machine = Machine(policy=Policy(host_share=False))
    for n in range(4):
        machine.tick(400.0, cpu=150.0 * n, node=1000.0 * n)

    assert (machine.host, machine.books.host_share.method) == (0.0, NONE)


@given(
    st.lists(
        # The counter of a GPU without draw for ten seconds is frozen, and power is used instead.
        st.tuples(st.floats(1.0, 900.0), st.floats(0.0, 500.0), st.booleans(), st.sampled_from([0.5, 1.0, 4.0])),
        min_size=2,
        max_size=60,
    )
)
def test_facility_energy_is_never_above_the_node_that_holds_it(
    seconds: list[tuple[float, float, bool, float]],
) -> None:
    """GPUs, CPU and node of one machine, with few readings of the node. PUE is 1, so the facility energy is its use."""
    machine = Machine(policy=Policy(pue=1.0))
    cpu = node = 0.0
    machine.tick(0.0, node=0.0, cpu=0.0)
    for watts, rest, is_read, length in seconds:
        cpu += 0.5 * rest * length
        node += (watts + rest) * length
        machine.tick(watts, seconds=length, cpu=cpu, **({"node": node} if is_read else {}))
        if is_read and node > 0.0:
            assert machine.booked_gpu_joules + machine.host + machine.books.host_carry_joules == pytest.approx(
                node, abs=1e-6
            )
        assert machine.booked_gpu_joules + machine.host <= node + 1e-6
