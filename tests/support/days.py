"""Random runs of a node for the law tests: what meters and servers report, tick by tick.

A *stretch* is plain data, so it can be played at once, cut differently, with a restart in the middle, or with its sources
in another order, and the books compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Cadence,
    EnergyMethod,
    Gpu,
    GpuFault,
    GpuSample,
    HostSample,
    InFlight,
    Instant,
    Load,
    Occupants,
    Ownership,
    Part,
    PriceInterval,
    ProcessIdentity,
    Reason,
    Role,
    ServerFault,
    ServerReading,
    SplitMethod,
    TokenSeries,
    Workload,
    WorkloadKind,
)

START_WALL = 1_790_000_085.0
"""A quarter of a minute before a quarter of an hour: stretches cross the border of two rows."""
START_MONOTONIC = 5_000.0


@dataclass(frozen=True)
class Steps:
    """A price curve of equal steps, repeated for ever: the simplest thing with boundaries."""

    prices: tuple[float | None, ...]
    step_seconds: float

    def pieces(self, start: float, end: float) -> Iterator[tuple[float, float, PriceInterval | None]]:
        at = start
        while at < end:
            number = int((at - START_WALL) // self.step_seconds)
            edge = START_WALL + (number + 1) * self.step_seconds
            if edge <= at:
                edge += self.step_seconds
            price = self.prices[number % len(self.prices)]
            stop = min(edge, end)
            yield at, stop, None if price is None else PriceInterval(at, edge, price)
            at = stop


@dataclass(frozen=True)
class Moment:
    """What happened between two ticks, and which sources spoke at the second."""

    seconds: float
    joules: tuple[float, ...]
    """By GPU."""
    heard: tuple[bool, ...]
    """By GPU: whether it answered."""
    host_joules: float
    tokens: tuple[tuple[float, ...], ...]
    """By server: prompt (cached included), cached, output."""
    running: tuple[int, ...]
    answers: tuple[str, ...]
    """By server: ok, fault, late (no read ended) or restart (answers, counters from 0)."""
    owned: tuple[tuple[int, ...], ...]
    """By server: indices of its GPUs."""
    used: tuple[float | None, ...] = ()
    """By server: what its processes used of every GPU it owns; None or not there: the driver does not report it."""
    instances: tuple[float, ...] = ()
    """Weights of the instances of the first GPU; empty: it is not partitioned. Server n sits on the n-th."""
    in_flight: tuple[int, ...] = ()
    """By server: output tokens of requests in work that its counter does not hold yet. Absent: it reports none."""
    reports: tuple[bool, ...] = ()
    """By GPU: whether a meter lists it at all. Absent: it does."""
    meters: tuple[str, ...] = ("cpu",)
    """Components of the host that are read: cpu, dram, psys, node."""
    other_joules: float = 0.0
    """What the node used beside GPUs, CPU and memory; memory takes a third of what the CPU does."""
    jobs: tuple[float, ...] = ()
    """By GPU: use by a process of no server; 0: none holds it. Missing: nothing is known about the processes there."""
    restart: bool = False
    """Whether the daemon was killed and started anew before it."""
    policy: int = 0
    """Which rules are in force."""
    clock_step: float = 0.0
    """By how much the wall clock was set in between."""


@dataclass(frozen=True)
class Stretch:
    """A node's life."""

    gpus: tuple[Gpu, ...]
    servers: tuple[str, ...]
    moments: tuple[Moment, ...]


@st.composite
def moments(draw: st.DrawFn, gpus: int, servers: int) -> Moment:
    seconds = draw(st.sampled_from([0.25, 0.5, 1.0, 1.0, 1.0, 2.0, 7.5]))
    return Moment(
        seconds=seconds,
        joules=tuple(draw(st.floats(0.5, 700.0)) * seconds for _ in range(gpus)),
        heard=tuple(draw(st.sampled_from([True, True, True, False])) for _ in range(gpus)),
        host_joules=draw(st.floats(0.0, 300.0)) * seconds,
        tokens=tuple(
            (cached + draw(st.integers(0, 500)), cached, draw(st.integers(0, 300)))
            for cached in (draw(st.integers(0, 200)) for _ in range(servers))
        ),
        running=tuple(draw(st.integers(0, 3)) for _ in range(servers)),
        answers=tuple(draw(st.sampled_from(["ok", "ok", "ok", "fault", "late", "restart"])) for _ in range(servers)),
        used=tuple(draw(st.sampled_from([None, 0.0, 10.0, 70.0])) for _ in range(servers)),
        jobs=draw(st.just(()) | st.tuples(*[st.sampled_from([0.0, 0.0, 0.02, 0.9])] * gpus)),
        instances=draw(st.sampled_from([(), (), (1 / 7,), (1 / 7, 3 / 7), (0.5, 0.5), (0.3, 0.2, 0.5)])),
        owned=tuple(
            tuple(draw(st.sets(st.integers(0, gpus - 1), max_size=gpus))) if gpus else () for _ in range(servers)
        ),
    )


@st.composite
def stretches(draw: st.DrawFn, *, method: EnergyMethod = EnergyMethod.COUNTER) -> Stretch:
    gpus = draw(st.integers(1, 3))
    servers = draw(st.integers(0, 3))
    return Stretch(
        gpus=tuple(Gpu(uuid=f"GPU-{i}", index=i, energy_method=method, max_power_watts=1000.0) for i in range(gpus)),
        servers=tuple(f"s{i}" for i in range(servers)),
        moments=tuple(draw(st.lists(moments(gpus, servers), min_size=1, max_size=12))),
    )


@st.composite
def eventful(draw: st.DrawFn, *, policies: int) -> Stretch:
    """A node to which everything happens: restarts, reloads, a driver that comes late, clocks that are set, meters of the
    host that come and go."""
    stretch = draw(stretches())
    gpus, servers = len(stretch.gpus), len(stretch.servers)
    reloads, clocks = draw(st.booleans()), draw(st.booleans())
    first = draw(st.integers(0, policies - 1))
    moments_ = []
    for moment in stretch.moments:
        # Now and then hours pass at once: the daemon was down, or its machine slept.
        long = draw(st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.0, 900.0, 7200.0, 90_000.0, 20 * 86400.0]))
        more = 1.0 + long / moment.seconds
        moments_.append(
            replace(
                moment,
                seconds=moment.seconds + long,
                joules=tuple(joules * more for joules in moment.joules),
                host_joules=moment.host_joules * more,
                tokens=moment.tokens if draw(st.booleans()) else tuple((0, 0, 0) for _ in range(servers)),
                in_flight=tuple(draw(st.sampled_from([0, 0, 7, 120])) for _ in range(servers)),
                reports=tuple(draw(st.sampled_from([True, True, True, False])) for _ in range(gpus)),
                meters=draw(
                    st.sampled_from(
                        [("cpu",), ("cpu", "dram"), ("cpu", "dram", "node"), ("psys", "cpu"), ("node",), ()]
                    )
                ),
                other_joules=draw(st.sampled_from([0.0, 40.0, 200.0])) * (moment.seconds + long),
                restart=long > 0.0 or draw(st.sampled_from([False, False, False, True])),
                policy=draw(st.integers(0, policies - 1)) if reloads else first,
                clock_step=draw(st.sampled_from([0.0] * 6 + [-7200.0, 3600.0, 40 * 86400.0])) if clocks else 0.0,
            )
        )
    return replace(stretch, moments=tuple(moments_))


def ticks(stretch: Stretch) -> list[Tick]:
    """The ticks of a stretch, the first read included."""
    wall, mono = START_WALL, START_MONOTONIC
    joules = [1000.0 * (i + 1) for i in range(len(stretch.gpus))]
    host = {"cpu": 50.0, "dram": 20.0, "psys": 90.0, "node": 1000.0}
    prompt = [0.0] * len(stretch.servers)
    cached = [0.0] * len(stretch.servers)
    output = [0.0] * len(stretch.servers)
    lives = [0] * len(stretch.servers)
    births: list[float | None] = [None] * len(stretch.servers)
    silent = Moment(
        0.0,
        tuple(0.0 for _ in stretch.gpus),
        tuple(True for _ in stretch.gpus),
        0.0,
        tuple((0, 0, 0) for _ in stretch.servers),
        tuple(0 for _ in stretch.servers),
        tuple("ok" for _ in stretch.servers),
        stretch.moments[0].owned,
    )
    made = []
    for moment in (silent, *stretch.moments):
        wall += moment.seconds
        mono += moment.seconds
        wall += moment.clock_step
        host["cpu"] += moment.host_joules
        host["dram"] += moment.host_joules / 3.0
        host["psys"] += moment.host_joules * 4.0 / 3.0
        host["node"] += moment.host_joules * 4.0 / 3.0 + moment.other_joules + sum(moment.joules)
        reporting = [gpu for i, gpu in enumerate(stretch.gpus) if not moment.reports or moment.reports[i]]
        samples, faults = [], []
        for i, gpu in enumerate(stretch.gpus):
            joules[i] += moment.joules[i]
            if gpu not in reporting:
                continue
            if moment.heard[i]:
                watts = moment.joules[i] / moment.seconds if moment.seconds else 100.0
                busy = 0.0 if watts < 60.0 else 0.5
                use = _use(moment, i)
                samples.append(GpuSample(gpu.uuid, mono, joules[i], watts, utilization_ratio=busy, process_use=use))
            else:
                faults.append(GpuFault(gpu.uuid, mono, Reason.LOST, "lost"))
        readings: list[ServerReading | ServerFault] = []
        for i, name in enumerate(stretch.servers):
            if moment.answers[i] == "restart":
                lives[i] += 1
                births[i] = wall
                prompt[i] = cached[i] = output[i] = 0.0
            prompt[i] += moment.tokens[i][0]
            cached[i] += moment.tokens[i][1]
            output[i] += moment.tokens[i][2]
            if moment.answers[i] in ("ok", "restart"):
                readings.append(
                    ServerReading(
                        name,
                        mono,
                        "vllm",
                        Cadence.STEP,
                        "1",
                        ProcessIdentity(float(lives[i])),
                        (
                            TokenSeries(Role.PROMPT, "m", "prompt", prompt[i]),
                            TokenSeries(Role.CACHED_INPUT, "m", "cached", cached[i]),
                            TokenSeries(Role.OUTPUT, "m", "output", output[i]),
                        ),
                        (Load("m", float(moment.running[i]), 0.0),),
                        started_wall_seconds=births[i],
                        in_flight=tuple(InFlight("m", float(made)) for made in moment.in_flight[i : i + 1] if made),
                    )
                )
            elif moment.answers[i] == "fault":
                readings.append(ServerFault(name, mono, Reason.UNREACHABLE, "refused"))
        made.append(
            Tick(
                Instant(mono, wall),
                AcceleratorReading(tuple(reporting), tuple(samples), tuple(faults)),
                tuple(HostSample(name, mono, host[name], max_power_watts=10_000.0) for name in moment.meters),
                tuple(readings),
                {
                    name: Ownership(
                        name,
                        frozenset(stretch.gpus[g].uuid for g in moment.owned[i]),
                        Attribution.CONFIGURED,
                        held=(i + len(moment.owned[i])) % 2 == 0,
                        pids=frozenset({100 + i} if i < len(moment.used) and moment.used[i] is not None else ()),
                        instances=frozenset({f"MIG-{i}"} if i < len(moment.instances) else ()),
                    )
                    for i, name in enumerate(stretch.servers)
                },
                {
                    gpu.uuid: Occupants({900 + i: Workload(WorkloadKind.SLURM, str(i))} if moment.jobs[i] else {})
                    for i, gpu in enumerate(stretch.gpus[: len(moment.jobs)])
                },
                {
                    stretch.gpus[0].uuid: tuple(
                        Part(f"MIG-{i}", "1g", weight, SplitMethod.SLICES) for i, weight in enumerate(moment.instances)
                    )
                }
                if moment.instances
                else {},
            )
        )
    return made


def _use(moment: Moment, gpu: int) -> dict[int, float] | None:
    """Use by process of one GPU; None where it is not reported."""
    servers = [(100 + i, used) for i, used in enumerate(moment.used) if gpu in moment.owned[i]]
    job = moment.jobs[gpu] if gpu < len(moment.jobs) else 0.0
    known = {pid: used / 100.0 for pid, used in servers if used}
    if len(servers) < sum(gpu in owned for owned in moment.owned) or any(used is None for _, used in servers):
        return None
    return {**known, **({900 + gpu: job} if job else {})}


def play(all_ticks: Iterable[Tick], policy: Policy, books: Books | None = None) -> list[Books]:
    """The books after every tick."""
    books = books or Books()
    seen = []
    for tick in all_ticks:
        books = advance(books, tick, policy)
        seen.append(books)
    return seen


def reordered(tick: Tick) -> Tick:
    """The same tick with its sources in the opposite order."""
    return replace(
        tick,
        accelerators=AcceleratorReading(
            tick.accelerators.gpus[::-1], tick.accelerators.samples[::-1], tick.accelerators.faults[::-1]
        ),
        hosts=tick.hosts[::-1],
        servers=tick.servers[::-1],
        owners=dict(reversed(tick.owners.items())),
    )


def flat(posting: Amounts) -> dict[str, float]:
    """Every number of a posting but those of late prices, which rows have in another sense."""
    return {
        "seconds": posting.seconds,
        "joules": posting.joules,
        "facility": posting.facility_joules,
        "credit": posting.credit,
        "unrated": posting.unrated_joules,
        **{f"cost {name}": value for name, value in posting.cost.items()},
        **{f"grams {name}": value for name, value in posting.emissions_grams.items()},
    }
