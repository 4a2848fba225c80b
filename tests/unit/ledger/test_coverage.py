"""Live ratios over joules are withheld where less than 95 % of the joules of the window are known."""

from __future__ import annotations

import pytest

from tpw.ledger.advance import advance
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
    Ownership,
    ProcessIdentity,
    Role,
    ServerReading,
    TokenSeries,
)

GPUS = (Gpu("GPU-0", 0, max_power_watts=700.0), Gpu("GPU-1", 1, max_power_watts=700.0))
OWNER = {"s": Ownership("s", frozenset({"GPU-0", "GPU-1"}), Attribution.CONFIGURED)}


class Watched:
    """A server on two GPUs of 250 W each, making 100 tokens a second, second by second."""

    def __init__(self) -> None:
        self.books = Books()
        self.at = 0
        self.counter = 0.0

    def tick(self, *, heard: bool = True, jump: float = 0.0) -> float | None:
        """One second. ``heard``: whether the first GPU answers; ``jump``: joules its counter leaps by.

        Returns tokens per joule over the window, None where they are withheld.
        """
        self.at += 1
        self.counter += jump
        samples = [GpuSample("GPU-1", self.at, 250.0 * self.at, 250.0)]
        if heard:
            samples.append(GpuSample("GPU-0", self.at, 250.0 * self.at + self.counter, 250.0))
        reading = ServerReading(
            "s",
            self.at,
            "vllm",
            Cadence.STEP,
            "1",
            ProcessIdentity(1.0),
            (TokenSeries(Role.OUTPUT, "m", "o", 100.0 * self.at),),
        )
        tick = Tick(Instant(self.at, 1e9 + self.at), AcceleratorReading(GPUS, tuple(samples)), (), (reading,), OWNER)
        self.books = advance(self.books, tick, Policy())
        found = live_ratios(self.books.servers["s"])
        if found is None:
            return None
        model = found.models["m"]
        assert model.tokens_per_second["output"] == pytest.approx(100.0)  # tokens are known whatever the meters do
        return next((value for (kind, _), value in model.tokens_per_joule.items() if kind == "output"), None)


def played(seconds: int = 70) -> Watched:
    server = Watched()
    for _ in range(seconds):
        server.tick()
    return server


def test_up_to_a_twentieth_of_the_window_may_be_lost() -> None:
    server = played()
    for _ in range(6):  # rejected readings of one of two GPUs: half of the joules of these seconds
        assert server.tick(jump=1e7) is not None
    assert server.tick(jump=1e7) is None
    assert sum(account.anomalies.get("implausible", 0) for account in server.books.gpus.values()) == 7


def test_what_was_lost_leaves_the_window_with_time() -> None:
    server = played()
    for _ in range(10):
        server.tick(jump=1e7)
    seconds = 0
    while server.tick() is None:
        seconds += 1

    assert 50 <= seconds <= 60
    for _ in range(10):
        server.tick()
    assert server.tick() == pytest.approx(100.0 / 500.0)


def test_joules_that_come_late_are_in_no_window_that_began_while_they_were_due() -> None:
    """A GPU that does not answer for 20 s and then reports its use: a window that began in those 20 s would hold
    joules of before it."""
    server = played()
    shown = [server.tick(heard=False) for _ in range(20)]
    shown += [server.tick() for _ in range(90)]

    assert None in shown
    known = [value for value in shown if value is not None]
    # Never more than the seconds that may be late, of the window's sixty.
    assert all(value == pytest.approx(0.2, rel=0.06) for value in known)
    assert shown[-1] == pytest.approx(0.2)
