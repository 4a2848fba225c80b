"""Law 9: an outage of a server's page changes no total, and no ratio over a window that contains it by more than 1 %."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.days import START_MONOTONIC, START_WALL, Steps, play
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.ledger.window import live_ratios
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Cadence,
    Gpu,
    GpuSample,
    Instant,
    Load,
    Ownership,
    ProcessIdentity,
    Rate,
    Reason,
    Reference,
    Role,
    Scope,
    ServerFault,
    ServerReading,
    State,
    TokenKind,
    TokenSeries,
    Workload,
    WorkloadKind,
)
from tpw.store import codec

STEP = 15.0
GPU = Gpu("GPU-0", 0, max_power_watts=1000.0)
POLICY = Policy(
    pue=1.2,
    currency="EUR",
    curve=Steps((0.30, 0.10, -0.05), 420.0),
    rates=(Rate("hardware", 0.0003),),
    references=(Reference("rented", price_per_gpu_second=0.0007),),
)


@dataclass(frozen=True)
class Course:
    """A server with one GPU: what it does between two ticks, and at which ticks it is read."""

    ticks: int
    busy: Callable[[int], bool]
    read: Callable[[int], bool] = lambda tick: True
    listed: bool = False
    """Whether the driver lists its process."""
    models: tuple[str, ...] = ("m",)
    alive: Callable[[int], bool] = lambda tick: True
    restarted_at: int = -1
    """The tick at which another process began."""
    beside: bool = False
    """Whether another server, which is always read, works on the same GPU."""

    def all_ticks(self) -> list[Tick]:
        joules, tokens = 1000.0, 0.0
        found = []
        for tick in range(self.ticks + 1):
            busy = tick > 0 and self.busy(tick) and self.alive(tick)
            if tick:
                joules += (600.0 if busy else 90.0) * STEP
            tokens = 0.0 if tick == self.restarted_at else tokens
            tokens += 1000.0 * STEP if busy else 0.0
            at = Instant(START_MONOTONIC + STEP * tick, START_WALL + STEP * tick)
            readings: list[ServerReading | ServerFault] = [self._reading(tick, at, tokens, busy)]
            if self.beside:
                readings.append(_reading("beside", at, (("n", 100.0 * tick),), True, None))
            owns = self.listed or self.read(tick)
            owners = {"s": _owner("s", held=self.listed and self.alive(tick), known=self.listed)}
            if not owns and not self.alive(tick) and self.listed:
                owners = {"s": replace(owners["s"], gpus=frozenset())}
            if self.beside:
                owners["beside"] = _owner("beside", held=True, known=True)
            sample = GpuSample(GPU.uuid, at.monotonic_seconds, joules, 300.0, utilization_ratio=0.9 if busy else 0.0)
            found.append(Tick(at, AcceleratorReading((GPU,), (sample,)), servers=tuple(readings), owners=owners))
        return found

    def _reading(self, tick: int, at: Instant, tokens: float, busy: bool) -> ServerReading | ServerFault:
        if not self.read(tick) or not self.alive(tick):
            return ServerFault("s", at.monotonic_seconds, Reason.UNREACHABLE, "refused")
        began = START_WALL + STEP * self.restarted_at if 0 <= self.restarted_at <= tick else START_WALL - 1e5
        parts = tuple((model, tokens * (n + 1)) for n, model in enumerate(self.models))
        return _reading("s", at, parts, busy, began)


def _owner(name: str, *, held: bool, known: bool) -> Ownership:
    return Ownership(name, frozenset({GPU.uuid}), Attribution.CONFIGURED, held, holders_known=known)


def _reading(
    name: str, at: Instant, tokens: tuple[tuple[str, float], ...], busy: bool, began: float | None
) -> ServerReading:
    return ServerReading(
        name,
        at.monotonic_seconds,
        "vllm",
        Cadence.STEP,
        "1",
        None if began is None else ProcessIdentity(began),
        tuple(TokenSeries(Role.OUTPUT, model, f"output{model}", value) for model, value in tokens),
        tuple(Load(model, float(busy), 0.0) for model, _ in tokens),
        started_wall_seconds=began,
    )


def server(books: Books, field: str, name: str = "s") -> float:
    return math.fsum(getattr(amounts, field) for key, amounts in books.postings.items() if key.server == name)


def gpu(books: Books, field: str) -> float:
    return math.fsum(getattr(amounts, field) for amounts in books.postings.values())


def held(books: Books, field: str) -> float:
    return math.fsum(getattr(amounts, field) for row in books.held.values() for amounts in row.values())


def tokens(books: Books, name: str = "s") -> float:
    return math.fsum(books.servers[name].tokens.values())


def restarted(books: Books) -> Books:
    """The books as a killed daemon finds them again."""
    return replace(
        books,
        at=Instant(0.0, books.at.wall_seconds) if books.at else None,
        resumed=True,
        gpus={uuid: codec.load_gpu(uuid, codec.dump_gpu(account)) for uuid, account in books.gpus.items()},
        servers={name: codec.load_server(name, codec.dump_server(account)) for name, account in books.servers.items()},
        held=codec.load_held(codec.dump_held(books.held)),
    )


@st.composite
def outages(draw: st.DrawFn) -> tuple[Course, int, int]:
    ticks = draw(st.integers(4, 120))
    begin = draw(st.integers(2, ticks - 2))
    end = draw(st.integers(begin + 1, ticks - 1))
    period, duty = draw(st.integers(1, 40)), draw(st.integers(0, 40))
    course = Course(
        ticks,
        busy=lambda tick: tick % period <= duty or tick in (1, ticks),
        listed=draw(st.booleans()),
        models=draw(st.sampled_from([("m",), ("m", "adapter")])),
        beside=draw(st.booleans()),
    )
    return course, begin, end


@given(outages(), st.booleans())
def test_an_outage_changes_no_total_and_no_ratio(case: tuple[Course, int, int], killed: bool) -> None:
    course, begin, end = case
    truth = play(course.all_ticks(), POLICY)[-1]
    away = replace(course, read=lambda tick: not begin <= tick < end).all_ticks()
    cut = (begin + end) // 2 if killed else 0
    first = play(away[:cut], POLICY)
    all_books = first + play(away[cut:], POLICY, restarted(first[-1]) if first else None)
    books = all_books[-1]

    assert not books.held
    assert math.isclose(tokens(books), tokens(truth), rel_tol=1e-12)
    for field in ("seconds", "joules", "facility_joules", "credit"):
        assert math.isclose(gpu(books, field), gpu(truth, field), rel_tol=1e-9)
        if not course.beside:
            assert math.isclose(server(books, field), server(truth, field), rel_tol=1e-9)
    if not course.beside:
        assert math.isclose(
            tokens(books) / server(books, "joules"), tokens(truth) / server(truth, "joules"), rel_tol=0.01
        )
        for row, amounts in truth.rows.items():
            assert row in books.rows, row
            for key, before in amounts.items():
                found = books.rows[row].get(key, Amounts())
                if len(course.models) == 1:
                    assert math.isclose(found.joules, before.joules, rel_tol=1e-9, abs_tol=1e-6)


@given(outages())
def test_at_every_tick_states_are_all_of_a_gpu_and_nothing_falls(case: tuple[Course, int, int]) -> None:
    course, begin, end = case
    last: dict[object, float] = {}
    metered = {tick.at: tick.accelerators.samples[0].energy_joules or 0.0 for tick in course.all_ticks()}
    for books in play(replace(course, read=lambda tick: not begin <= tick < end).all_ticks(), POLICY):
        assert books.at is not None
        assert math.isclose(gpu(books, "joules") + held(books, "joules") + 1000.0, metered[books.at], rel_tol=1e-9)
        for key, amounts in books.postings.items():
            assert amounts.joules >= last.get(key, 0.0)
            last[key] = amounts.joules


@given(outages())
def test_another_server_on_the_gpu_is_booked_at_once(case: tuple[Course, int, int]) -> None:
    course, begin, end = case
    away = replace(course, beside=True, read=lambda tick: not begin <= tick < end)
    for before, after in zip((found := play(away.all_ticks(), POLICY))[1:], found[2:], strict=False):
        assert server(after, "joules", "beside") > server(before, "joules", "beside")


def test_tokens_and_joules_of_an_outage_are_in_the_same_rows() -> None:
    course = Course(220, busy=lambda tick: tick < 70 or tick > 140)
    truth = play(course.all_ticks(), POLICY)[-1]
    books = play(replace(course, read=lambda tick: not 10 <= tick < 215).all_ticks(), POLICY)[-1]

    assert len(truth.rows) == 5
    for row, served in truth.served.items():
        expected = served["s", "m"].tokens[TokenKind.OUTPUT]
        assert math.isclose(books.served[row]["s", "m"].tokens[TokenKind.OUTPUT], expected, rel_tol=0.01)


def test_a_server_that_was_restarted_is_active_until_it_ended_and_since_it_began() -> None:
    """Busy for 600 s, gone for 900 s, 600 s of loading, then read again."""
    course = Course(
        200, busy=lambda tick: tick <= 40 or tick > 140, read=lambda tick: not 20 < tick <= 140, restarted_at=100
    )
    books = play(course.all_ticks(), POLICY)[-1]
    seconds = dict.fromkeys(State, 0.0)
    for key, amounts in books.postings.items():
        seconds[key.state] += amounts.seconds
    assert seconds[State.ACTIVE] == 100 * STEP
    assert math.isclose(seconds[State.IDLE], 60 * STEP, rel_tol=0.1)
    assert math.isclose(seconds[State.STARTING], 40 * STEP, rel_tol=0.1)
    assert math.isclose(sum(seconds.values()), 200 * STEP)


def test_a_server_that_does_not_come_back_is_other_with_its_name() -> None:
    bound = int(POLICY.held_seconds / STEP)
    course = Course(bound + 100, busy=lambda tick: True, read=lambda tick: tick < 20)
    books = play(course.all_ticks(), POLICY)
    assert books[bound].held
    end = books[-1]
    assert not end.held
    used = {key.workload: amounts.joules for key, amounts in end.postings.items() if key.state is State.OTHER}
    assert used.keys() == {Workload(WorkloadKind.SERVER, "s")}
    assert math.isclose(sum(used.values()), (bound + 100 - 19) * STEP * 600.0)


@pytest.mark.parametrize("listed", [True, False])
def test_an_outage_of_three_hours_changes_no_total(listed: bool) -> None:
    """A process list names the owner for any time; without one the energy waits for as long as the setting has it."""
    course = Course(760, busy=lambda tick: tick % 4 != 0, listed=listed)
    away = replace(course, read=lambda tick: not 20 <= tick < 740)
    policy = POLICY if listed else replace(POLICY, held_seconds=4 * 3600.0)
    truth, books = (play(one.all_ticks(), policy)[-1] for one in (course, away))
    assert not books.held
    assert math.isclose(tokens(books), tokens(truth), rel_tol=1e-12)
    assert math.isclose(server(books, "joules"), server(truth, "joules"), rel_tol=1e-9)


def test_a_process_that_is_known_to_have_ended_owns_nothing_since() -> None:
    course = Course(100, busy=lambda tick: tick <= 20, listed=True, alive=lambda tick: tick <= 20)
    books = play(course.all_ticks(), POLICY)[-1]
    assert not books.held
    assert server(books, "joules") == 20 * STEP * 600.0


def test_no_live_ratio_while_it_cannot_be_read() -> None:
    course = Course(60, busy=lambda tick: True, read=lambda tick: not 20 <= tick < 40)
    found = [live_ratios(books.servers["s"], (Scope.ENERGY, Scope.FULL)) for books in play(course.all_ticks(), POLICY)]
    assert all(ratios is None for ratios in found[20:40])
    for ratios in (*found[3:20], *found[40:]):
        assert ratios is not None
        rates = ratios.models["m"]
        assert math.isclose(rates.tokens_per_second["output"], 1000.0)
        assert all(math.isclose(ratio, 1000.0 / 600.0, rel_tol=0.21) for ratio in rates.tokens_per_joule.values())
