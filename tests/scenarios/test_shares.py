"""Processes with known duty on one GPU, and the energy that is booked for each of them.

Every world is two minutes of ticks, a second apart with some milliseconds of jitter. The truth is the exact integral of
what each process used (:mod:`support.duty`). The driver rounds and samples, and pages count whole tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest

from support.duty import Party, Result, World, bursts, run, steady
from support.losses import aligned, documented
from tpw.model import SplitMethod

COMMAND = "pytest tests/scenarios/test_shares.py"
HEADINGS = ("known duty", "evidence", "who", "true J", "0.1.0 J", "booked J", "error %")

LIMITS = {SplitMethod.SM: 0.05, SplitMethod.TOKENS: 0.15}
"""Largest error of a share, relative to its truth, by method."""


@dataclass(frozen=True)
class Case:
    """One world. ``before``: what version 0.1.0 booked, by party."""

    name: str
    evidence: str
    world: World
    before: dict[str, float]
    limit: float | None = LIMITS[SplitMethod.SM]
    """None: the method is a guess, and its error is stated in the table only."""


JOB = Party("job", steady(0.95), is_server=False, gigabytes=40.0)
HALF_JOB = Party("job", steady(0.5), is_server=False, gigabytes=40.0)
NOTEBOOK = Party("notebook", steady(0.0), is_server=False, gigabytes=5.0)
CODE = Party("code", steady(0.5))


def server(name: str, ratio: float) -> Party:
    return Party(name, steady(ratio))


def bursty(name: str, ratio: float, on: float, period: float, phase: float = 0.0) -> Party:
    return Party(name, bursts(ratio, on, period, phase))


CASES = (
    Case(
        "job at 95 % beside a silent server",
        "sm",
        World([server("chat", 0.0), JOB]),
        {"chat": 68277, "job": 0, "idle": 0},
    ),
    Case(
        "server at 5 % beside a job at 90 %",
        "sm",
        World([server("chat", 0.05), Party("job", steady(0.9), False, 40.0)]),
        {"chat": 68277, "job": 0, "idle": 0},
    ),
    Case("job alone", "sm", World([JOB]), {"job": 0, "idle": 68277}),
    Case("job alone", "utilization", World([JOB], use=False), {"job": 0, "idle": 68277}),
    Case("notebook that computes nothing", "sm", World([NOTEBOOK]), {"notebook": 0, "idle": 9516}),
    Case(
        "server 10 s of 20 s beside a job",
        "sm",
        World([bursty("chat", 0.45, 10.0, 20.0), HALF_JOB]),
        {"chat": 54261, "job": 0, "idle": 0},
    ),
    Case(
        "server 10 s of 20 s beside a steady one",
        "sm",
        World([bursty("chat", 0.45, 10.0, 20.0), CODE]),
        {"chat": 7411, "code": 46850, "idle": 0},
    ),
    Case(
        "server 2 s of 5 s beside a steady one",
        "sm",
        World([bursty("chat", 0.45, 2.0, 5.0), CODE]),
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
                bursty("a", 0.3, 7.0, 13.0),
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
        World([bursty("a", 0.3, 7.0, 13.0), bursty("b", 0.3, 3.0, 11.0, 5.0), server("c", 0.02), server("d", 0.25)]),
        {"a": 9915, "b": 2669, "c": 2142, "d": 26771, "idle": 0},
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
        World([bursty("a", 0.5, 10.0, 20.0), server("b", 0.3)], use=False),
        {"a": 14993, "b": 28433, "idle": 0},
        LIMITS[SplitMethod.TOKENS],
    ),
    Case(
        "server 2 s of 5 s, steady, parked",
        "tokens",
        World([bursty("a", 0.5, 2.0, 5.0), server("b", 0.3), server("c", 0.0)], use=False),
        {"a": 13551, "b": 26755, "c": 0, "idle": 0},
        LIMITS[SplitMethod.TOKENS],
    ),
    Case(
        "server with 4 times the tokens per second of use",
        "tokens",
        World([Party("small", steady(0.3), tokens_per_second=4000.0), server("large", 0.3)], use=False),
        {"small": 23314, "large": 23314, "idle": 0},
        None,
    ),
    Case(
        "server and job",
        "memory",
        World([server("a", 0.6), Party("job", steady(0.3), False, 10.0)], use=False),
        {"a": 65185, "job": 0, "idle": 0},
        None,
    ),
    Case(
        "server and job",
        "nothing",
        World([server("a", 0.6), Party("job", steady(0.3), False, 10.0)], use=False, memory=False),
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
