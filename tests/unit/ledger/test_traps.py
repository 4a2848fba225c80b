"""What reading tokens and joules apart does to their ratio; each test is named after its number in the list of traps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.ledger.window import live_ratios
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Boundary,
    Cadence,
    Gpu,
    GpuSample,
    Instant,
    Load,
    Ownership,
    ProcessIdentity,
    Role,
    Scope,
    ServerReading,
    State,
    TokenKind,
    TokenSeries,
)

GPU = Gpu("GPU-0", 0, max_power_watts=700.0)
START = 1000.0


def read(second: float, tokens: dict[str, float], running: float = 0.0, *, name: str = "chat") -> ServerReading:
    return ServerReading(
        name,
        START + second,
        "vllm",
        Cadence.STEP,
        "1",
        ProcessIdentity(1.0),
        tuple(TokenSeries(Role.OUTPUT, model, f'tokens{{model="{model}"}}', value) for model, value in tokens.items()),
        tuple(Load(model, running, 0.0) for model in tokens),
    )


def owner(name: str = "chat", *, counters: bool = True, pids: tuple[int, ...] = ()) -> Ownership:
    return Ownership(name, frozenset({GPU.uuid}), Attribution.CONFIGURED, True, "m", counters, frozenset(pids))


def tick(
    second: float,
    joules: float | None,
    readings: tuple[ServerReading, ...],
    owners: tuple[Ownership, ...] = (),
    busy: float = 1.0,
    use: dict[int, float] | None = None,
) -> Tick:
    at = START + second
    sample = GpuSample(GPU.uuid, at, energy_joules=joules, utilization_ratio=busy, process_use=use)
    samples = () if joules is None else (sample,)
    names = {one.server: one for one in owners or (owner(),)}
    return Tick(Instant(at, at + 1e9), AcceleratorReading((GPU,), samples), (), readings, names)


def play(*ticks: Tick, policy: Policy | None = None) -> Books:
    books = Books()
    for one in ticks:
        books = advance(books, one, policy or Policy())
    return books


def joules(books: Books, **wanted: str) -> float:
    return sum(
        posting.joules
        for key, posting in books.postings.items()
        if all(getattr(key, field) == value for field, value in wanted.items())
    )


def test_t02_joules_of_a_long_prefill_are_active_before_its_tokens_are_counted() -> None:
    """Nothing is counted for three seconds, but a request runs: that is work, not parking."""
    books = play(
        *(tick(n, 500.0 * n, (read(n, {"m": 0.0}, running=1.0),)) for n in range(4)),
        tick(4, 2000.0, (read(4, {"m": 1.0}, running=1.0),)),
    )
    assert joules(books, state=State.ACTIVE) == 2000.0
    assert joules(books, state=State.PARKED) == 0.0
    assert books.servers["chat"].tokens == {("m", TokenKind.OUTPUT): 1.0}


@pytest.mark.parametrize(("ticks_before", "counted"), [(0, 0.0), (1, 40.0)])
def test_t10_tokens_from_before_the_first_tick_of_all_have_no_joules_and_are_not_counted(
    ticks_before: int, counted: float
) -> None:
    """A server that began half a minute ago was under watch only if somebody watched then."""
    young = replace(read(100, {"m": 40.0}), started_wall_seconds=START + 70.0 + 1e9)
    before = [replace(tick(n, 0.0, ()), owners={}) for n in range(ticks_before)]
    books = play(*before, tick(100, 0.0, (young,)))
    assert books.servers["chat"].tokens == {("m", TokenKind.OUTPUT): counted}


def test_t15_models_of_one_server_share_its_joules_by_their_tokens() -> None:
    books = play(tick(0, 0.0, (read(0, {"a": 0.0, "b": 0.0}),)), tick(1, 400.0, (read(1, {"a": 30.0, "b": 10.0}),)))
    assert (joules(books, model="a"), joules(books, model="b")) == (300.0, 100.0)


def test_t18_joules_of_work_that_makes_no_token_are_booked_all_the_same() -> None:
    """A preempted request is worked through again: its joules are the server's, though no counter moves."""
    books = play(*(tick(n, 600.0 * n, (read(n, {"m": 50.0}, running=2.0),)) for n in range(3)))
    assert joules(books, server="chat", state=State.ACTIVE) == 1200.0


def test_t23_an_idle_server_has_a_ratio_of_zero_and_no_cost_per_token() -> None:
    books = play(*(tick(n, 90.0 * n, (read(n, {"m": 50.0}),)) for n in range(5)))
    assert joules(books, server="chat", state=State.PARKED) == 360.0
    ratios = live_ratios(books.servers["chat"], (Scope.ENERGY, Scope.FULL))
    assert ratios is not None
    assert ratios.models["m"].tokens_per_joule["output", Boundary.GPU] == 0.0
    assert ratios.models["m"].cost_per_token == {}


def test_t25_ranks_without_counters_have_joules_under_the_server_s_name() -> None:
    ranks = (owner(counters=False),)
    books = play(tick(0, 0.0, (), ranks), tick(1, 500.0, (), ranks), tick(2, 590.0, (), ranks, busy=0.0))
    assert joules(books, server="chat", model="m", state=State.ACTIVE) == 500.0
    assert joules(books, server="chat", model="m", state=State.PARKED) == 90.0
    assert books.servers["chat"].tokens == {}


def test_t26_tokens_and_joules_of_a_ratio_are_of_the_same_stretch() -> None:
    """The power alternates, the tokens do not. The ratio is rise over rise between two ticks; a mean of what each tick
    showed would be another number."""
    ticks, watt_seconds = [tick(0, 0.0, (read(0, {"m": 0.0}),))], 0.0
    for n in range(1, 11):
        watt_seconds += (100.0, 700.0)[n % 2]
        ticks.append(tick(n, watt_seconds, (read(n, {"m": 5.0 * n}, running=1.0),)))
    ratios = live_ratios(play(*ticks, policy=Policy(window_seconds=6.0)).servers["chat"])
    assert ratios is not None
    assert ratios.span_seconds == 6.0
    ratio = ratios.models["m"].tokens_per_joule["output", Boundary.GPU]
    assert ratio == pytest.approx(6 * 5.0 / (3 * 100.0 + 3 * 700.0), rel=1e-12)
    assert ratio != pytest.approx((5.0 / 100.0 + 5.0 / 700.0) / 2, rel=0.1)


def test_t26_joules_that_are_read_late_are_of_the_time_in_which_they_were_used() -> None:
    """The GPU did not answer at second 1, while the server worked; at second 2 the server did not work."""
    books = play(
        tick(0, 0.0, (read(0, {"m": 0.0}),)),
        tick(1, None, (read(1, {"m": 5.0}, running=1.0),)),
        tick(2, 800.0, (read(2, {"m": 5.0}),)),
    )
    assert joules(books, server="chat", state=State.ACTIVE) == 400.0
    assert joules(books, server="chat", state=State.PARKED) == 400.0


def test_t27_servers_on_one_gpu_split_it_evenly_or_by_their_measured_share() -> None:
    def both(second: float) -> tuple[ServerReading, ...]:
        return tuple(read(second, {"m": 10.0 * second}, running=1.0, name=name) for name in ("a", "b"))

    even = play(*(tick(n, 400.0 * n, both(n), (owner("a"), owner("b"))) for n in range(2)))
    measured = play(
        *(
            tick(n, 400.0 * n, both(n), (owner("a", pids=(1,)), owner("b", pids=(2,))), use={1: 0.6, 2: 0.2})
            for n in range(2)
        )
    )
    assert (joules(even, server="a"), joules(even, server="b")) == (200.0, 200.0)
    assert joules(measured, server="a") == pytest.approx(300.0)
    assert joules(measured, server="b") == pytest.approx(100.0)


def test_t27_a_parked_server_has_no_part_of_a_working_gpu() -> None:
    def readings(second: float) -> tuple[ServerReading, ...]:
        return (read(second, {"m": 10.0 * second}, running=1.0, name="a"), read(second, {"m": 0.0}, name="b"))

    books = play(*(tick(n, 400.0 * n, readings(n), (owner("a"), owner("b"))) for n in range(2)))
    assert (joules(books, server="a"), joules(books, server="b")) == (400.0, 0.0)


def test_one_server_on_several_gpus_owns_all_their_joules() -> None:
    second = Gpu("GPU-1", 1, max_power_watts=700.0)
    both = Ownership("chat", frozenset({GPU.uuid, second.uuid}), Attribution.CONFIGURED)
    books = Books()
    for n in range(3):
        one = tick(n, 300.0 * n, (read(n, {"m": 10.0 * n}, running=1.0),), (both,))
        samples = (*one.accelerators.samples, GpuSample(second.uuid, START + n, energy_joules=100.0 * n))
        books = advance(books, replace(one, accelerators=AcceleratorReading((GPU, second), samples)), Policy())
    assert joules(books, server="chat", state=State.ACTIVE) == 800.0
    assert joules(books, server="chat", gpu="GPU-1") == 200.0
