"""Planned pauses: which time they are, whom they are for, and that nothing but the state of an entry changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.days import START_WALL, Stretch, flat, play, stretches, ticks
from support.examples import examples
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, PostingKey
from tpw.ledger.planned import Pause, Plan, Planned
from tpw.ledger.tick import Policy
from tpw.model import WASTED, Rate, ServerWorkload, State, Workload, WorkloadKind

POLICY = Policy(currency="EUR", pue=1.2, rates=(Rate("hardware", 0.0003),))
NIGHTS = Pause(hours=((1200, 360),), days=frozenset(range(5)))
"""From 20:00 to 06:00, Monday to Friday."""
IDLE = PostingKey("GPU-0", "", "", State.IDLE)
PARKED = PostingKey("GPU-1", "chat", "m", State.PARKED)


def planned(*pauses: Pause, **labels: str) -> Planned:
    belongs = {"chat": ServerWorkload(labels=tuple(labels.items()))}
    return Planned(Plan(pauses, "Europe/Berlin"), {"GPU-0": 0, "GPU-1": 1}, belongs)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


@pytest.mark.parametrize(
    ("moment", "is_off"),
    [
        ("2026-06-05T19:45", False),  # a Friday
        ("2026-06-05T20:00", True),
        ("2026-06-06T05:45", True),  # its night ends on Saturday
        ("2026-06-06T06:00", False),
        ("2026-06-06T20:00", False),
        ("2026-06-08T05:45", False),  # Sunday's night is not planned
        ("2026-06-08T20:00", True),
        ("2026-03-27T20:00", True),  # winter time
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(moment: str, is_off: bool):
    assert (planned(NIGHTS).state(IDLE, at(moment)).state is State.PLANNED_OFF) is is_off


@given(
    hours=st.lists(
        st.tuples(st.integers(0, 95), st.integers(0, 95)).filter(lambda pair: pair[0] != pair[1]), max_size=2
    ),
    days=st.frozensets(st.integers(0, 6)),
    quarter=st.integers(0, 4 * 24 * 400),
)
@settings(max_examples=examples(100))
def test_a_pause_is_the_quarters_from_its_begin_to_its_end(
    hours: list[tuple[int, int]], days: frozenset[int], quarter: int
):
    """By hand: walk back from a moment to the begins of the last day, and ask whether the end is later."""
    pause = Pause(tuple((15 * start, 15 * end) for start, end in hours), days)
    local = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * quarter)
    expected = not hours and (not days or local.weekday() in days)
    for start, end in hours:
        length = (end - start) % 96
        for back in range(length):
            begin = local - timedelta(minutes=15 * back)
            if begin.hour * 4 + begin.minute // 15 == start and (not days or begin.weekday() in days):
                expected = True
    assert pause.is_at(local) is expected


@pytest.mark.parametrize(
    ("pause", "idle", "parked"),
    [
        (Pause(), True, True),
        (Pause(gpus=frozenset({"0"})), True, False),
        (Pause(gpus=frozenset({"GPU-1"})), False, True),
        (Pause(servers=frozenset({"chat"})), False, True),
        (Pause(servers=frozenset({"code"})), False, False),
        (Pause(labels=(("label_tier", "batch"),)), False, True),
        (Pause(labels=(("label_tier", "online"),)), False, False),
    ],
)
def test_a_pause_is_for_whom_it_names(pause: Pause, idle: bool, parked: bool):
    plan = planned(pause, label_tier="batch")
    assert (plan.state(IDLE, 0.0).state is State.PLANNED_OFF) is idle
    assert (plan.state(PARKED, 0.0).state is State.PLANNED_OFF) is parked


@pytest.mark.parametrize("state", [State.ACTIVE, State.STARTING, State.OTHER])
def test_work_is_never_planned_off(state: State):
    key = PostingKey("GPU-0", "", "", state, Workload(WorkloadKind.SLURM, "1") if state is State.OTHER else None)
    assert planned(Pause()).state(key, 0.0) is key


def test_a_replica_is_planned_as_its_server():
    assert planned(Pause(servers=frozenset({"chat"}))).servers(["chat", "code"], 0.0) == {"chat"}
    assert planned(Pause()).servers(["chat", "code"], 0.0) == {"chat", "code"}
    assert planned(Pause(gpus=frozenset({"0"}))).servers(["chat"], 0.0) == frozenset()


def sums(books: Books) -> dict[tuple[str, str, str, str], Amounts]:
    """Amounts by GPU, server, model, and state; waste and planned pauses are one."""
    found: dict[tuple[str, str, str, str], Amounts] = {}
    for key, amounts in books.postings.items():
        state = "nothing" if key.state in {*WASTED, State.PLANNED_OFF} else str(key.state)
        who = (key.gpu, key.server, key.model, state)
        found[who] = found.get(who, Amounts()) + amounts
    return found


@settings(max_examples=examples(40), deadline=None)
@given(stretches())
def test_a_plan_moves_waste_and_changes_no_sum(stretch: Stretch):
    """The stretch begins a quarter of a minute before a border of rows, from which on there is a pause."""
    begins = round((START_WALL // 900 + 1) * 900 % 86400 / 60)
    pause = Pause(hours=((begins, (begins + 720) % 1440),))
    with_plan = play(ticks(stretch), replace(POLICY, plan=Plan((pause,), "UTC")))[-1]
    without = play(ticks(stretch), POLICY)[-1]
    mine, theirs = sums(with_plan), sums(without)
    assert mine.keys() == theirs.keys()
    for who, amounts in theirs.items():
        assert flat(mine[who]) == pytest.approx(flat(amounts), rel=1e-9, abs=1e-9)
    for start, row in with_plan.rows.items():
        states = {key.state for key in row}
        assert not states & (WASTED if start % 86400 / 60 >= begins else {State.PLANNED_OFF})
