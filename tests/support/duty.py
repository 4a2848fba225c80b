"""A GPU that servers and other processes share with known duty, as its driver and their pages report it.

The power of the GPU is its no-load power and ``LOAD_WATTS`` times the multiprocessors in use. The energy of a process is
its part of both: the no-load power by the memory it holds, the rest by what it used; while a process of no server computes
nothing, its part of the no-load power is idle. A driver samples use by process four times a second and reports whole
percentages; pages count whole tokens.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Cadence,
    Gpu,
    GpuSample,
    Instant,
    Load,
    Occupants,
    Ownership,
    ProcessIdentity,
    Role,
    ServerReading,
    SplitMethod,
    TokenSeries,
    Workload,
    WorkloadKind,
)

NO_LOAD_WATTS = 80.0
LOAD_WATTS = 520.0
GPU = Gpu("GPU-0", 0, max_power_watts=700.0)
STEP_SECONDS = 0.05
SAMPLE_SECONDS = 0.25
WARM_UP_SECONDS = 30

Duty = Callable[[float], float]
"""Share of the multiprocessors in use at a time in seconds."""


def steady(ratio: float) -> Duty:
    """The same all the time."""
    return lambda at: ratio


def bursts(ratio: float, on_seconds: float, period_seconds: float, phase_seconds: float = 0.0) -> Duty:
    """Busy for the first part of every period."""
    return lambda at: ratio if (at + phase_seconds) % period_seconds < on_seconds else 0.0


@dataclass(frozen=True)
class Party:
    """A process on the GPU."""

    name: str
    duty: Duty
    is_server: bool = True
    gigabytes: float = 20.0
    tokens_per_second: float = 1000.0
    """Output tokens per second of full use."""


@dataclass(frozen=True)
class World:
    """One GPU and its processes.

    ``reports``: what the driver reports of them: use by process, memory.
    """

    parties: Sequence[Party]
    use: bool = True
    memory: bool = True
    cadence: Cadence = Cadence.STEP
    seconds: int = 120
    seed: int = 1


@dataclass(frozen=True)
class Result:
    """Joules by party and of idle time, and by state; the method of the last tick."""

    true: Mapping[str, float]
    booked: Mapping[str, float]
    states: Mapping[str, float]
    method: SplitMethod | None

    def error(self, name: str) -> float:
        """Relative to the truth."""
        return (self.booked[name] - self.true[name]) / self.true[name]

    def share_error(self, name: str) -> float:
        """Relative to the energy of the GPU."""
        return (self.booked[name] - self.true[name]) / sum(self.true.values())


def drawn(seed: int, method: SplitMethod) -> World:
    """A world of two to four processes with random duties, for one kind of evidence."""

    def party(random: Random, name: str) -> Party:
        ratio, period = random.uniform(0.05, 0.9), random.uniform(4.0, 20.0)
        duty = random.choice(
            [
                steady(ratio),
                steady(ratio),
                bursts(ratio, random.uniform(0.2, 0.8) * period, period, random.uniform(0.0, period)),
                bursts(ratio, random.uniform(0.2, 0.8) * period, period, random.uniform(0.0, period)),
                steady(random.uniform(0.001, 0.01)),
                steady(0.0),
            ]
        )
        is_server = _is_server(random, name, method)
        return Party(name, duty, is_server, random.uniform(5.0, 40.0), 1000.0 * random.lognormvariate(0.0, 0.5))

    return _world(seed, method, party, f"{method} {seed}")


def drawn_otherwise(seed: int, method: SplitMethod) -> World:
    """A world by another model than the one that the stated bounds were chosen on: loads come and go at random times, their
    heights are beta distributed, memory comes in the sizes of models, and the cost of a token is spread evenly."""

    def party(random: Random, name: str) -> Party:
        duty = _telegraph(random, random.betavariate(1.5, 2.5), random.choice([1.0, 4.0, 15.0]))
        gigabytes = random.choice([2.0, 8.0, 16.0, 40.0, 70.0])
        return Party(name, duty, _is_server(random, name, method), gigabytes, 1000.0 * random.uniform(0.4, 2.0))

    return _world(seed, method, party, f"otherwise {method} {seed}")


def _is_server(random: Random, name: str, method: SplitMethod) -> bool:
    """The first is one, and all are where only servers have the evidence."""
    return name == "p0" or method in (SplitMethod.TOKENS, SplitMethod.REQUESTS) or random.random() < 0.5


def _world(seed: int, method: SplitMethod, party: Callable[[Random, str], Party], name: str) -> World:
    random = Random(name)
    parties = [party(random, f"p{number}") for number in range(random.randint(2, 4))]
    cadence = Cadence.FINISH if method is SplitMethod.REQUESTS else Cadence.STEP
    return World(parties, method is SplitMethod.SM, method is not SplitMethod.EVEN, cadence, seconds=40, seed=seed)


def _telegraph(random: Random, ratio: float, mean_seconds: float) -> Duty:
    """On and off for exponentially distributed times; one in four is never off."""
    if random.random() < 0.25:
        return steady(ratio)
    ends, at = [], 0.0
    while at < 60.0:
        at += random.expovariate(1.0 / mean_seconds)
        ends.append(at)
    begins_on = random.randint(0, 1)
    return lambda at: ratio if (bisect_right(ends, at) + begins_on) % 2 else 0.0


def run(world: World) -> Result:
    """The world, a tick a second, after a time without load in which no-load power is learned."""
    random = Random(world.seed)
    parties = world.parties
    pids = {party.name: 100 + i for i, party in enumerate(parties)}
    held = sum(party.gigabytes for party in parties)
    true = {"idle": 0.0, **{party.name: 0.0 for party in parties}}
    used = {party.name: 0.0 for party in parties}
    tokens = {party.name: 0.0 for party in parties}
    sampled = {party.name: 0.0 for party in parties}
    """Use in the driver's samples since the last read."""
    samples, sample_at = 0, 0.0
    joules, recent, last, books = 1000.0, [NO_LOAD_WATTS], dict.fromkeys(used, 0.0), Books()
    reported: dict[int, float] = {}
    at, next_tick, started = -float(WARM_UP_SECONDS), -float(WARM_UP_SECONDS), dict(true)
    begun: Books | None = None
    while at < world.seconds:
        duties = {party.name: party.duty(at) if at >= 0.0 else 0.0 for party in parties}
        total = sum(duties.values())
        if total > 1.0:
            duties = {name: duty / total for name, duty in duties.items()}
        watts = NO_LOAD_WATTS + LOAD_WATTS * sum(duties.values())
        for party in parties:
            holds = NO_LOAD_WATTS * party.gigabytes / held
            is_idle = not party.is_server and duties[party.name] == 0.0
            true["idle" if is_idle else party.name] += holds * STEP_SECONDS
            true[party.name] += LOAD_WATTS * duties[party.name] * STEP_SECONDS
            used[party.name] += duties[party.name] * STEP_SECONDS
            tokens[party.name] += duties[party.name] * STEP_SECONDS * party.tokens_per_second
        joules += watts * STEP_SECONDS
        recent = [*recent[-19:], watts]
        at = round(at + STEP_SECONDS, 6)
        if at - sample_at >= SAMPLE_SECONDS or sample_at == 0.0:
            for name, value in used.items():
                sampled[name] += value - last[name]
            last, samples, sample_at = dict(used), samples + 1, at
        if at < next_tick:
            continue
        next_tick += 1.0 + random.uniform(-0.02, 0.02)
        now = 1e9 + at
        if samples:
            span = samples * SAMPLE_SECONDS
            percents = {pids[name]: round(100.0 * min(1.0, use / span)) for name, use in sampled.items()}
            reported = {pid: percent / 100.0 for pid, percent in percents.items() if percent}
            sampled, samples = dict.fromkeys(sampled, 0.0), 0
        sample = GpuSample(
            GPU.uuid, at + 1000.0, joules, sum(recent) / len(recent), power_mean_seconds=1.0,
            utilization_ratio=min(1.0, round(sum(duties.values()), 2)), process_use=dict(reported) if world.use else None,
        )  # fmt: skip
        servers = [party for party in parties if party.is_server]
        tick = Tick(
            Instant(at + 1000.0, now),
            AcceleratorReading((GPU,), (sample,)),
            (),
            tuple(
                _page(world, party.name, at + 1000.0, float(int(tokens[party.name])), running=duties[party.name] > 0.0)
                for party in servers
            ),
            {
                party.name: Ownership(
                    party.name, frozenset({GPU.uuid}), Attribution.PROCESSES, pids=frozenset({pids[party.name]})
                )
                for party in servers
            },
            {
                GPU.uuid: Occupants(
                    {pids[p.name]: Workload(WorkloadKind.SLURM, p.name) for p in parties if not p.is_server},
                    memory_bytes={pids[p.name]: p.gigabytes * 2**30 for p in parties} if world.memory else {},
                )
            },
        )
        books = advance(books, tick, Policy())
        if begun is None and at >= 0.0:
            begun, started = books, dict(true)  # what was used before the first tick with load is not compared
    assert begun is not None
    booked = {party.name: _joules(books, party.name) - _joules(begun, party.name) for party in parties}
    states: dict[str, float] = {}
    for ledger, sign in ((books, 1.0), (begun, -1.0)):
        for key, amounts in ledger.postings.items():
            states[key.state] = states.get(key.state, 0.0) + sign * amounts.joules
    booked["idle"] = states.get("idle", 0.0)
    division = books.gpus[GPU.uuid].division
    return Result(
        {name: value - started[name] for name, value in true.items()},
        booked,
        states,
        None if division is None else division.method,
    )


def _page(world: World, server: str, at: float, tokens: float, *, running: bool) -> ServerReading:
    series = (TokenSeries(Role.OUTPUT, "m", "output", tokens), TokenSeries(Role.PROMPT, "m", "prompt", 0.0))
    loads = (Load("m", float(running), 0.0),)
    return ServerReading(server, at, "vllm", world.cadence, "1", ProcessIdentity(1.0), series, loads)


def _joules(books: Books, name: str) -> float:
    return sum(
        amounts.joules
        for key, amounts in books.postings.items()
        if name in (key.server, None if key.workload is None else key.workload.name)
    )
