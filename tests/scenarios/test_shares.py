"""Processes with known duty on one GPU, and the energy that is booked for each of them.

Every world is two minutes of ticks, a second apart with some milliseconds of jitter. The truth is the exact integral of
what each process used (:mod:`support.duty`). The driver rounds and samples, and pages count whole tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import pytest

from support.duty import Party, Result, World, bursts, run, steady
from support.losses import aligned, documented
from tpw.model import Cadence, SplitMethod

COMMAND = "pytest tests/scenarios/test_shares.py"
HEADINGS = ("known duty", "evidence", "who", "true J", "0.1.0 J", "booked J", "error %")

LIMITS = {SplitMethod.SM: 0.05, SplitMethod.TOKENS: 0.15}
"""Largest error of a share, relative to its truth, by method."""


@dataclass(frozen=True)
class Case:
    """One world. ``before``: what version 0.1.0 booked, by party, where that was measured."""

    name: str
    evidence: str
    world: World
    before: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = LIMITS[SplitMethod.SM]
    """None: the method is a guess, and its error is stated in the table only."""


def server(name: str, ratio: float, on: float = 0.0, period: float = 0.0, phase: float = 0.0) -> Party:
    """One that is busy all the time, or for ``on`` seconds of every ``period``."""
    return Party(name, bursts(ratio, on, period, phase) if period else steady(ratio))


def job(ratio: float, gigabytes: float = 40.0) -> Party:
    return Party("job", steady(ratio), is_server=False, gigabytes=gigabytes)


NOTEBOOK = Party("notebook", steady(0.0), is_server=False, gigabytes=5.0)
CODE = server("code", 0.5)


CASES = (
    Case(
        "job at 95 % beside a silent server",
        "sm",
        World([server("chat", 0.0), job(0.95)]),
        {"chat": 68277, "job": 0, "idle": 0},
    ),
    Case(
        "server at 5 % beside a job at 90 %",
        "sm",
        World([server("chat", 0.05), job(0.9)]),
        {"chat": 68277, "job": 0, "idle": 0},
    ),
    Case("job alone", "sm", World([job(0.95)]), {"job": 0, "idle": 68277}),
    Case("job alone", "utilization", World([job(0.95)], use=False), {"job": 0, "idle": 68277}),
    Case("notebook that computes nothing", "sm", World([NOTEBOOK]), {"notebook": 0, "idle": 9516}),
    Case(
        "server 10 s of 20 s beside a job",
        "sm",
        World([server("chat", 0.45, 10.0, 20.0), job(0.5)]),
        {"chat": 54261, "job": 0, "idle": 0},
    ),
    Case(
        "server 10 s of 20 s beside a steady one",
        "sm",
        World([server("chat", 0.45, 10.0, 20.0), CODE]),
        {"chat": 7411, "code": 46850, "idle": 0},
    ),
    Case(
        "server 2 s of 5 s beside a steady one",
        "sm",
        World([server("chat", 0.45, 2.0, 5.0), CODE]),
        {"chat": 14385, "code": 37067, "idle": 0},
    ),
    Case(
        "server at 0.3 %, which rounds to 0",
        "sm",
        World([server("tiny", 0.003), CODE]),
        {"tiny": 0, "code": 40629, "idle": 0},
    ),
    Case(
        "parked server beside a working one",
        "sm",
        World([server("parked", 0.0), CODE]),
        {"parked": 0, "code": 40443, "idle": 0},
    ),
    Case(
        "two servers, a job and a notebook",
        "sm",
        World(
            [
                server("a", 0.3, 7.0, 13.0),
                server("b", 0.2),
                Party("job", bursts(0.4, 11.0, 17.0), False, 30.0),
                NOTEBOOK,
            ]
        ),
        {"a": 13144, "b": 34880, "job": 0, "notebook": 0, "idle": 0},
    ),
    Case(
        "four servers",
        "sm",
        World([server("a", 0.3, 7.0, 13.0), server("b", 0.3, 3.0, 11.0, 5.0), server("c", 0.02), server("d", 0.25)]),
        {"a": 9915, "b": 2669, "c": 2142, "d": 26771, "idle": 0},
    ),
    Case(
        "bursty server, steady job, notebook",
        "sm",
        World([server("a", 0.4, 3.0, 8.0), job(0.3), NOTEBOOK]),
    ),
    Case(
        "servers of 600 and 1 token/s",
        "tokens",
        World([server("a", 0.6), server("b", 0.001)], use=False),
        {"a": 23345, "b": 23345, "idle": 0},
        LIMITS[SplitMethod.TOKENS],
    ),
    Case(
        "server 10 s of 20 s beside a steady one",
        "tokens",
        World([server("a", 0.5, 10.0, 20.0), server("b", 0.3)], use=False),
        {"a": 14993, "b": 28433, "idle": 0},
        LIMITS[SplitMethod.TOKENS],
    ),
    Case(
        "server 2 s of 5 s, steady, parked",
        "tokens",
        World([server("a", 0.5, 2.0, 5.0), server("b", 0.3), server("c", 0.0)], use=False),
        {"a": 13551, "b": 26755, "c": 0, "idle": 0},
        LIMITS[SplitMethod.TOKENS],
    ),
    Case(
        "bursty, steady, tiny and parked server",
        "tokens",
        World([server("a", 0.5, 4.0, 9.0), server("b", 0.3), server("c", 0.003), server("d", 0.0)], use=False),
        limit=LIMITS[SplitMethod.TOKENS],
    ),
    Case(
        "server with 4 times the tokens per second of use",
        "tokens",
        World([Party("small", steady(0.3), tokens_per_second=4000.0), server("large", 0.3)], use=False),
        {"small": 23314, "large": 23314, "idle": 0},
        None,
    ),
    Case(
        "busy and bursty server, counted at the end",
        "requests",
        World([server("a", 0.5), server("b", 0.3, 4.0, 9.0)], use=False, cadence=Cadence.FINISH),
        limit=None,
    ),
    Case(
        "server, job and notebook",
        "memory",
        World([server("a", 0.4, 3.0, 8.0), job(0.3), NOTEBOOK], use=False),
        limit=None,
    ),
    Case(
        "server and job",
        "memory",
        World([server("a", 0.6), job(0.3, 10.0)], use=False),
        {"a": 65185, "job": 0, "idle": 0},
        None,
    ),
    Case(
        "server and job",
        "nothing",
        World([server("a", 0.6), job(0.3, 10.0)], use=False, memory=False),
        {"a": 65185, "job": 0, "idle": 0},
        None,
    ),
)


@cache
def result(case: int) -> Result:
    return run(CASES[case].world)


def parties(case: int) -> list[str]:
    true = result(case).true
    return [name for name in (*(party.name for party in CASES[case].world.parties), "idle") if true[name] > 1.0]


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{case.name}, {case.evidence}" for case in CASES])
def test_each_process_is_booked_what_it_used(case: int) -> None:
    found, limit = result(case), CASES[case].limit
    assert sum(found.booked.values()) == pytest.approx(sum(found.true.values()), rel=0.005)
    for name in parties(case):
        if limit is not None:
            assert abs(found.error(name)) <= limit, name
    for party in CASES[case].world.parties:
        if party.is_server and found.true[party.name] > 0.0:
            assert found.booked[party.name] > 0.0


def test_the_table_of_the_document_is_what_the_scenarios_give() -> None:
    rows = [HEADINGS]
    for number, case in enumerate(CASES):
        for name in parties(number):
            found = result(number)
            before = case.before.get(name)
            rows.append(
                (
                    case.name,
                    case.evidence,
                    name,
                    f"{found.true[name]:.0f}",
                    "" if before is None else f"{before:.0f}",
                    f"{found.booked[name]:.0f}",
                    f"{100.0 * found.error(name):+.1f}".replace("-0.0", "+0.0"),
                )
            )
    table = aligned(rows)
    assert documented(COMMAND, table) == table
