"""Advice for seeded fleets with known best decisions: found within 5 %, nothing wrong, nothing on healthy ones."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest

from support.fleets import (
    DAY,
    IDLE_WATTS,
    MONDAY,
    OFF,
    PARKED_WATTS,
    PUE,
    STARTING,
    UNKNOWN,
    Load,
    Server,
    World,
    evening_peak,
    flat,
    hour_of,
    weekday_of,
)
from tpw.advice.advise import Findings, Question, advise
from tpw.advice.lines import Kind
from tpw.billing.bill import Bill, bill
from tpw.billing.curve import Load as BilledLoad
from tpw.config import load as load_config
from tpw.ledger.books import ROW_SECONDS
from tpw.ledger.calendar import Calendar
from tpw.model import TokenKind
from tpw.tariff.context import FeedContext

HOUR = 4
TOLERANCE = 0.05
DOCS = Path(__file__).parents[3] / "docs" / "advice.md"


@cache
def steady(low: float, high: float, seed: int = 7) -> Load:
    """A load between two values, another in each quarter-hour."""
    numbers = random.Random(seed)
    values = [numbers.uniform(low, high) for _ in range(4 * 7 * DAY)]
    return lambda index: values[index]


def within(load: Load, is_on: Callable[[int], bool], otherwise: float | str = 0.0) -> Load:
    return lambda index: load(index) if is_on(index) else otherwise


def is_day(index: int) -> bool:
    return 6.0 <= hour_of(index) < 22.0


def is_workday(index: int) -> bool:
    return weekday_of(index) < 5


def limited_to(first: float, then: float, from_week: int = 2) -> Callable[[int], float]:
    return lambda index: first if index < from_week * 7 * DAY else then


@dataclass(frozen=True)
class Case:
    name: str
    world: World
    best: Mapping[Kind, Callable[[World], float]] = field(default_factory=dict)
    """Kind -> the saving a month."""
    can_wait: Mapping[str, float] = field(default_factory=dict)
    tariffs: Sequence[str] = ()
    """The present contract, and others."""
    missing: Kind | None = None
    """What the books cannot show here."""


# ------------------------------------------------------------------------------------------------------------- optima


def idle_gpu(world: World) -> float:
    return world.month * sum(world.per_quarter + world.energy(IDLE_WATTS, index) for index in range(world.quarters))


def parked_server(first: int) -> Callable[[World], float]:
    def saving(world: World) -> float:
        server = world.servers[-1]
        watts = PARKED_WATTS if world.rent else PARKED_WATTS - IDLE_WATTS
        span = range(first, world.quarters)
        per_day = sum(world.per_quarter + world.energy(watts, index) for index in span) / len(span) * DAY
        return server.gpus * per_day * 365.0 / 12.0

    return saving


def pauses(is_off: Callable[[int], bool]) -> Callable[[World], float]:
    """Stopping the first server in these quarter-hours, with a start before the end of each."""

    def saving(world: World) -> float:
        server, (seconds, watts) = world.servers[0], world.starts[world.servers[0].name]
        gained = 0.0
        for index in range(world.quarters):
            if is_off(index) and server.load(index) == 0.0:
                gained += world.per_quarter + world.energy(PARKED_WATTS - IDLE_WATTS, index)
                ends = index + 1 < world.quarters and not is_off(index + 1)
                if ends:
                    gained -= world.per_quarter * seconds / ROW_SECONDS
                    gained -= world.energy(watts - IDLE_WATTS, index, seconds)
        return server.gpus * gained * world.month

    return saving


def served_by(*kept: int) -> Callable[[World], float]:
    """All load on some servers, in proportion to what they can do."""

    def saving(world: World) -> float:
        servers = world.servers
        able = sum(servers[number].tokens_per_second for number in kept)
        gained = 0.0
        for index in range(world.quarters):
            loads = [server.load(index) for server in servers]
            before = sum(
                world.energy(server.gpus * server.watts(load), index)
                for server, load in zip(servers, loads, strict=True)
                if isinstance(load, float)
            )
            total = sum(
                server.tokens_per_second * load
                for server, load in zip(servers, loads, strict=True)
                if isinstance(load, float)
            )
            after = 0.0
            for number, server in enumerate(servers):
                watts = server.watts(total / able) if number in kept else IDLE_WATTS
                after += world.energy(server.gpus * watts, index)
                gained += 0.0 if number in kept else server.gpus * world.per_quarter
            gained += before - after
        return gained * world.month

    return saving


def limit_at_same_load(present: float, best: float) -> Callable[[World], float]:
    def saving(world: World) -> float:
        server = world.servers[0]
        gained = 0.0
        for index in range(world.quarters):
            load = server.load(index)
            assert isinstance(load, float)
            gained += world.energy(server.watts(load, present) - server.watts(load, best), index)
        return server.gpus * gained * world.month

    return saving


def limit_for_same_tokens(present: float, best: float, above: float = 0.0) -> Callable[[World], float]:
    """While the price is higher than ``above``."""

    def saving(world: World) -> float:
        server = world.servers[0]
        longer = server.speed(present) / server.speed(best)
        return (
            server.gpus
            * world.month
            * sum(
                world.per_quarter * (1.0 - longer) + world.energy(present - best * longer, index)
                for index in range(world.quarters)
                if world.price(index) > above
            )
        )

    return saving


def moved(watts: float, hours: float, expensive: float, cheap: float) -> Callable[[World], float]:
    """So many hours of a load a day at another price."""
    return lambda _: watts * PUE / 1e3 * hours * (expensive - cheap) * 365.0 / 12.0


def present_less(other: int) -> Callable[[World], float]:
    """The difference of two flat prices with a price per month."""

    def saving(world: World) -> float:
        kwh = sum(
            server.gpus * server.watts(load) * PUE / 4e3
            for server in world.servers
            for index in range(world.quarters)
            if isinstance(load := server.load(index), float)
        )
        return kwh * world.month * (0.20 - (0.15, 0.16)[other])

    return saving


def here_less_there(world: World) -> float:
    server = world.servers[0]
    here = there = 0.0
    for index in range(world.quarters):
        load = server.load(index)
        assert isinstance(load, float)
        here += world.per_quarter + world.energy(server.watts(load), index)
        there += load * server.tokens_per_second * ROW_SECONDS * 3.0 * server.reference
    return world.month * (here - there)


# ------------------------------------------------------------------------------------------------------------- fleets

BUSY = Server("chat", steady(0.6, 0.9))
NIGHT_PAUSE = within(steady(0.4, 0.9), is_day)
START = {"chat": (240.0, 180.0)}


def with_start(load: Load, at: int = 5 * DAY + 24) -> Load:
    """One start, in the quarter-hour before."""
    return lambda index: STARTING if index == at - 1 else load(index)


def once_alone(load: Load, other: Load, at: int) -> tuple[Load, Load]:
    """Two servers, of which the second failed for two busy hours: the first carried both."""
    out = range(at, at + 2 * HOUR)

    return lambda index: 0.95 if index in out else load(index), lambda index: 0.0 if index in out else other(index)


def all_day_batch(index: int) -> float:
    """From 17 to 20."""
    return 1.0 if 17.0 <= hour_of(index) < 20.0 else 0.0


def halved(load: Load) -> Load:
    """With a pause in every second quarter-hour, but for the load of both."""
    return lambda index: value if isinstance(value := load(index), str) or value > 0.9 or index % 2 else 0.0


HALF = tuple(
    Server(name, load)
    for name, load in zip(
        ("chat-a", "chat-b"), once_alone(steady(0.2, 0.42), steady(0.2, 0.42, seed=8), 9 * DAY + 40), strict=True
    )
)
FLAT = "tariff: {currency: EUR, timezone: UTC, energy: {kind: flat, price_per_kwh: %s}}"
PEAK = FLAT[:-1] + ", demand: [{price_per_kw_month: 20}]}"

CASES = (
    Case("busy all day", World((BUSY,))),
    Case("two busy servers of one model", World((BUSY, Server("chat-2", steady(0.6, 0.9, seed=9))))),
    Case("interactive load at changing prices", World((BUSY,), price=evening_peak)),
    Case("an idle GPU of its own", World((BUSY,), spare_gpus=1), {Kind.IDLE: idle_gpu}),
    Case("an idle GPU that is rented", World((BUSY,), spare_gpus=1, owned=0.0, rent=2.5), {Kind.IDLE: idle_gpu}),
    Case(
        "a GPU that is not read any more",
        World((BUSY, Server("old", within(steady(0.2, 0.5), lambda index: index < 14 * DAY, UNKNOWN), 2, "qwen"))),
    ),
    Case(
        "a week without the exporter, with idle nights before",
        World(
            (Server("chat", with_start(within(NIGHT_PAUSE, lambda i: i // DAY not in range(14, 21), UNKNOWN))),),
            starts=START,
        ),
        {Kind.SCHEDULE: lambda world: pauses(lambda index: not is_day(index))(world) * 28.0 / 21.0},
    ),
    Case(
        "a server that took the place of another of its model",
        World(
            (
                Server("chat-old", within(steady(0.3, 0.5), lambda i: i < 14 * DAY, OFF)),
                Server("chat-new", within(steady(0.6, 0.9), lambda i: i >= 14 * DAY, OFF)),
            )
        ),
        {Kind.IDLE: idle_gpu},
    ),
    Case(
        "a server that nobody uses any more",
        World((BUSY, Server("old", within(steady(0.2, 0.5), lambda index: index < 14 * DAY), 2, "qwen")), spare_gpus=0),
        {Kind.PARKED: parked_server(14 * DAY)},
    ),
    Case(
        "idle nights",
        World((Server("chat", with_start(NIGHT_PAUSE), 2),), starts=START),
        {Kind.SCHEDULE: pauses(lambda index: not is_day(index))},
    ),
    Case(
        "idle weekends",
        World((Server("chat", with_start(within(steady(0.4, 0.9), is_workday), 7 * DAY)),), starts=START),
        {Kind.SCHEDULE: pauses(lambda index: not is_workday(index))},
    ),
    Case(
        "nights that are scaled to zero already",
        World(
            (Server("chat", within(lambda i: STARTING if hour_of(i) == 6.0 else steady(0.4, 0.9)(i), is_day, OFF)),),
            starts=START,
        ),
    ),
    Case(
        "pauses shorter than a start is worth",
        World(
            (Server("chat", with_start(within(steady(0.4, 0.9), lambda i: not 3.0 <= hour_of(i) < 5.0))),),
            owned=0.0,
            starts={"chat": (890.0, 700.0)},
        ),
    ),
    Case(
        "idle nights, no start measured",
        World((Server("chat", NIGHT_PAUSE),)),
        missing=Kind.SCHEDULE,
    ),
    Case("two half-empty servers", World(HALF), {Kind.CONSOLIDATE: served_by(0)}),
    Case(
        "two half-empty servers, one of which was late with the load of both",
        World(tuple(replace(server, late_above=0.9, load=halved(server.load)) for server in HALF)),
        missing=Kind.CONSOLIDATE,
    ),
    Case(
        "pools of prefill and decode",
        World(
            tuple(
                Server(
                    f"{kind}-{n}",
                    lambda i, n=n, most=most: most if i % 97 == 0 else steady(0.3, 0.5, seed=n)(i),  # type: ignore[misc]
                    kinds=(kind,),
                    reference=1e-9,
                )
                for kind, most in ((TokenKind.INPUT, 0.0), (TokenKind.OUTPUT, 0.95))
                for n in (1, 2)
            )
        ),
    ),
    Case(
        "an older GPU beside a newer one",
        World(
            (
                Server("new", lambda i: 0.9 if i % 97 == 0 else steady(0.25, 0.4)(i), tokens_per_second=2000.0),
                Server(
                    "aged", within(steady(0.4, 0.8, seed=11), lambda i: i % 97 != 0), full_watts=650.0, gpu_name="A100"
                ),
            )
        ),
        {Kind.CONSOLIDATE: served_by(0)},
    ),
    Case(
        "two servers, never measured at the load of both",
        World(
            tuple(
                Server(name, lambda i, n=n: steady(0.2, 0.42, seed=n)(i) if i % 2 else 0.0)  # type: ignore[misc]
                for n, name in enumerate(("chat-a", "chat-b"))
            )
        ),
        missing=Kind.CONSOLIDATE,
    ),
    Case(
        "a limit above what its load needs",
        World((Server("chat", steady(0.4, 0.75), 2, limit=lambda i: 450.0 if 7 * DAY <= i < 14 * DAY else 700.0),)),
        {Kind.POWER_LIMIT: limit_at_same_load(700.0, 450.0)},
    ),
    Case(
        "a limit too low for what the GPU costs",
        World((Server("batch", steady(1.0, 1.0), saturated=True, limit=limited_to(600.0, 300.0)),), owned=2.0),
        {Kind.POWER_LIMIT: limit_for_same_tokens(300.0, 600.0)},
    ),
    Case(
        "a limit too high for what energy costs",
        World(
            (Server("batch", steady(1.0, 1.0), saturated=True, limit=limited_to(300.0, 600.0)),),
            owned=0.05,
            price=flat(0.4),
        ),
        {Kind.POWER_LIMIT: limit_for_same_tokens(600.0, 300.0)},
    ),
    Case(
        "a limit that should follow the price",
        World(
            (Server("batch", steady(1.0, 1.0), saturated=True, limit=limited_to(300.0, 600.0)),),
            owned=0.15,
            price=evening_peak,
        ),
        {Kind.POWER_LIMIT: limit_for_same_tokens(600.0, 300.0, above=0.3)},
    ),
    Case(
        "a limit that follows the price already",
        World(
            (
                Server(
                    "batch",
                    steady(1.0, 1.0),
                    saturated=True,
                    limit=lambda i: 300.0 if evening_peak(i) > 0.3 else 600.0,
                ),
            ),
            owned=0.15,
            price=evening_peak,
        ),
    ),
    Case(
        "the best of two limits",
        World((Server("batch", steady(1.0, 1.0), saturated=True, limit=limited_to(300.0, 600.0)),), owned=2.0),
    ),
    Case(
        "one limit, which binds",
        World((Server("batch", steady(1.0, 1.0), saturated=True, limit=lambda _: 500.0),)),
        missing=Kind.POWER_LIMIT,
    ),
    Case(
        "a batch at the most expensive hours",
        World((BUSY, Server("batch", all_day_batch, model="embed", workload=True)), price=evening_peak, weeks=2),
        {Kind.SHIFT: moved(600.0 - IDLE_WATTS, 3.0, 0.40, 0.10)},
        can_wait={"batch": 12.0},
    ),
    Case(
        "a batch that makes the peak",
        World((Server("chat", steady(0.8, 0.8)), Server("batch", all_day_batch, 4, "embed", workload=True)), weeks=2),
        {Kind.SHIFT: lambda _: 4 * (600.0 - IDLE_WATTS) * PUE / 1e3 * 20.0 * (1.0 - 3.0 / 15.0)},
        can_wait={"batch": 12.0},
        tariffs=(PEAK % 0.20,),
    ),
    Case(
        "a cheaper contract",
        World((BUSY,)),
        {Kind.CONTRACT: present_less(0)},
        tariffs=tuple(FLAT % one for one in (0.20, 0.15, 0.25)),
    ),
    Case("the cheapest contract", World((BUSY,)), tariffs=tuple(FLAT % one for one in (0.20, 0.21, 0.25))),
    Case(
        "a model that is cheaper elsewhere",
        World((Server("chat", steady(0.03, 0.08), reference=0.4e-6),)),
        {Kind.ELSEWHERE: here_less_there},
    ),
    Case("a model that is cheaper here", World((Server("chat", steady(0.6, 0.9), reference=0.4e-6),))),
    Case(
        "an idle GPU and idle nights",
        World((Server("chat", with_start(NIGHT_PAUSE)),), spare_gpus=1, starts=START),
        {Kind.IDLE: idle_gpu, Kind.SCHEDULE: pauses(lambda index: not is_day(index))},
    ),
)


def findings(case: Case) -> Findings:
    tariffs = {str(number): load_config(text).tariff for number, text in enumerate(case.tariffs)}

    def bill_of(name: str, loads: tuple[BilledLoad, ...], start: float, end: float) -> Bill:
        return bill(tariffs[name], loads, start, end, FeedContext())

    peak_cost = None
    if tariffs and tariffs["0"].demand:

        def peak_cost(joules: Sequence[float]) -> float:
            loads = tuple(
                BilledLoad(MONDAY + index * ROW_SECONDS, MONDAY + (index + 1) * ROW_SECONDS, used)
                for index, used in enumerate(joules)
            )
            return bill_of("0", loads, loads[0].start_seconds, loads[-1].end_seconds).of("demand")

    question = Question(
        Calendar("UTC"),
        can_wait_hours=case.can_wait,
        peak_cost=peak_cost,
        present_contract="0",
        contracts={name: f"contract-{name}.yaml" for name in list(tariffs)[1:]},
        bill_of=bill_of,
    )
    return advise(case.world.fleet(), question)


@dataclass(frozen=True)
class Result:
    """What was found of one fleet: (kind, saving, optimum) of each line, the kinds that were missed, and wrong ones."""

    lines: tuple[tuple[Kind, float, float], ...]
    missed: frozenset[Kind]
    wrong: frozenset[Kind]
    lacks: frozenset[Kind]


def judged(case: Case) -> Result:
    found = findings(case)
    kinds = {one.kind for one in found.advice}
    for one in found.advice:
        assert one.saving.low <= one.saving.value <= one.saving.high, case.name
    return Result(
        tuple(
            (one.kind, one.saving.value, case.best[one.kind](case.world))
            for one in found.advice
            if one.kind in case.best
        ),
        frozenset(case.best.keys() - kinds),
        frozenset(kinds - case.best.keys()),
        frozenset(one.kind for one in found.missing),
    )


def row(case: Case, result: Result) -> str:
    lines = [f"{kind}: {value:,.2f} ({value / best - 1.0:+.1%})" for kind, value, best in result.lines]
    best = [f"{kind}: {best:,.2f}" for kind, _, best in result.lines]
    lacks = [f"not known: {kind}" for kind in sorted(result.lacks)]
    cells = [best or ["nothing"], lines + lacks or ["nothing"], sorted(result.missed), sorted(result.wrong)]
    return f"| {case.name} | {' | '.join('<br>'.join(cell) or '0' for cell in cells)} |"


def test_advice_finds_what_there_is_within_five_percent_and_nothing_else() -> None:
    """One test, because the table of the documentation is its result; UPDATE_GOLDEN=1 writes it."""
    results = {case.name: judged(case) for case in CASES}
    assert {name: (one.missed, one.wrong) for name, one in results.items() if one.missed or one.wrong} == {}
    for name, one in results.items():
        for _, value, best in one.lines:
            assert value == pytest.approx(best, rel=TOLERANCE), name
    assert {case.name for case in CASES if case.missing and case.missing not in results[case.name].lacks} == set()
    table = "\n".join(row(case, results[case.name]) for case in CASES)
    text = DOCS.read_text()
    head, marker, rest = text.partition("| fleet | best | found | missed | wrong |\n| --- | --- | --- | --- | --- |\n")
    _, gap, after = rest.partition("\n\n")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        DOCS.write_text(head + marker + table + gap + after)
    assert table in DOCS.read_text()
