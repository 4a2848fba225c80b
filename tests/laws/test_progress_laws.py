"""Requests in work and the counter that takes them over: whatever the order in which the two are read.

A server is played that counts output when a request ends, as llama.cpp does. Between the read of its counter and the read
of its requests anything may happen: requests begin, go on, end, are dropped by their clients.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tpw.ledger.books import ServerAccount
from tpw.ledger.counting import count
from tpw.model import Cadence, InFlight, ProcessIdentity, Role, ServerReading, TokenKind, TokenSeries
from tpw.tokens.progress import Takeover

SLOTS = 3

STEPS = st.lists(st.tuples(st.integers(0, SLOTS - 1), st.sampled_from(["work", "end"]), st.integers(1, 50)), max_size=6)
READINGS = st.lists(st.tuples(STEPS, STEPS), max_size=15)


class Engine:
    """Slots of requests, and a counter that takes over what a request made when it ends."""

    def __init__(self) -> None:
        self.counter = 0
        self.tasks = 0
        self.slots: dict[int, tuple[int, int]] = {}

    def run(self, steps: list[tuple[int, str, int]]) -> None:
        for slot, what, tokens in steps:
            if what == "end":
                self.counter += self.slots.pop(slot, (0, 0))[1]
                continue
            if slot not in self.slots:
                self.tasks += 1
            task, made = self.slots.get(slot, (self.tasks, 0))
            self.slots[slot] = (task, made + tokens)

    def made(self) -> int:
        return self.counter + sum(made for _, made in self.slots.values())

    def requests(self) -> dict[tuple[int, int], float]:
        return {(slot, task): float(made) for slot, (task, made) in self.slots.items()}


def page(counter: float, requests: dict[tuple[int, int], float]) -> ServerReading:
    total = sum(requests.values())
    return ServerReading(
        "chat",
        1.0,
        "llamacpp",
        Cadence.STEP,
        "1",
        ProcessIdentity(0.0, 1),
        (TokenSeries(Role.OUTPUT, "m", "tokens_predicted_total", counter),),
        in_flight=(InFlight("m", total),) if total else (),
    )


def output(account: ServerAccount) -> float:
    return account.tokens.get(("m", TokenKind.OUTPUT), 0.0)


@given(READINGS)
def test_tokens_in_flight_are_never_counted_twice_never_fall_and_end_as_the_counter(readings):
    engine, takeover = Engine(), Takeover()
    account = count(ServerAccount("chat"), page(0.0, {})).account
    for before, between in readings:
        engine.run(before)
        counter = float(engine.counter)
        engine.run(between)
        requests = engine.requests()
        assert takeover.holds(counter, requests)
        earlier = output(account)
        account = count(account, page(counter, requests)).account
        assert earlier <= output(account) <= engine.made()
        assert output(account) >= counter
    engine.run([(slot, "end", 1) for slot in range(SLOTS)])
    account = count(account, page(float(engine.counter), {})).account
    assert output(account) == engine.counter


@given(READINGS, READINGS)
def test_a_server_that_is_killed_with_requests_in_work_ends_as_its_counters(first, second):
    """What it had made and never counted is not added to what its successor counts: the sum of the two counters stands,
    unless the successor has counted less than was lost."""
    account = count(ServerAccount("chat"), page(0.0, {})).account
    counted = lost = 0.0
    for readings in (first, second):
        engine = Engine()
        for before, between in readings:
            engine.run(before)
            counter = float(engine.counter)
            engine.run(between)
            earlier = output(account)
            account = count(account, page(counter, engine.requests())).account
            assert output(account) >= earlier
        if readings is first:
            account = count(account, page(float(engine.counter), engine.requests())).account
            counted, lost = float(engine.counter), engine.made() - engine.counter
            # Another process: its counter begins at 0.
            account = count(account, page(0.0, {})).account
        else:
            engine.run([(slot, "end", 1) for slot in range(SLOTS)])
            account = count(account, page(float(engine.counter), {})).account
            assert output(account) == max(counted + lost, counted + engine.counter)
