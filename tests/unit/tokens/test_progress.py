"""Running requests of an engine with an output counter that moves when a request ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.pageserver import NOT_FOUND, Asked, PageServer, answer
from tpw.model import Cadence, InFlight, ServerReading
from tpw.tokens.engines import LLAMACPP
from tpw.tokens.progress import Takeover, requests_in
from tpw.tokens.scrape import ScrapeSource

CAPTURES = Path(__file__).parents[2] / "captures" / "servers"
PROGRESS = LLAMACPP.progress
assert PROGRESS is not None


def slot(number: int, task: int, decoded: int, *, busy: bool = True, old: bool = False) -> dict[str, Any]:
    """As in b11669; builds before 2026 have a mapping instead of the list."""
    progress = {"has_next_token": busy, "n_remain": -1, "n_decoded": decoded}
    return {"id": number, "id_task": task, "is_processing": busy, "next_token": progress if old else [progress]}


def test_running_requests_are_identified_by_slot_and_task():
    body = json.dumps([slot(0, 7, 29), slot(1, 8, 3, old=True), slot(2, 5, 99, busy=False), {"id": 3}]).encode()
    assert requests_in(body, PROGRESS) == {(0, 7): 29.0, (1, 8): 3.0}


def test_four_requests_of_a_captured_page_are_read():
    body = (CAPTURES / "llamacpp-b11669-busy-slots.json").read_bytes()
    assert requests_in(body, PROGRESS) == {(n, n): 48.0 for n in range(4)}


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[" * 200_000,
        b'{"slots": []}',
        b"[1]",
        b'[{"is_processing": true}]',
        b'[{"is_processing": true, "next_token": [{"n_decoded": -1}]}]',
        b'[{"is_processing": true, "next_token": [{"n_decoded": true}]}]',
        b'[{"is_processing": true, "next_token": [{"n_decoded": "9"}]}]',
    ],
)
def test_an_unexpected_document_has_no_requests(body: bytes):
    assert requests_in(body, PROGRESS) is None


# ---------------------------------------------------------------------------------------------- takeover


def results(*reads: tuple[float, dict[tuple[int, int], float]]) -> list[bool]:
    takeover = Takeover()
    return [takeover.holds(counter, requests) for counter, requests in reads]


def test_the_counter_rises_by_the_tokens_in_flight():
    assert results((100, {}), (100, {(0, 1): 40}), (100, {(0, 1): 90}), (195, {}), (195, {})) == [True] * 5


def test_a_request_that_ends_between_the_two_requests_is_counted_at_the_next_read():
    assert results((100, {(0, 1): 90}), (100, {}), (195, {})) == [True] * 3


def test_a_request_that_is_dropped_when_its_client_disconnects_is_noticed():
    assert results((100, {(0, 1): 90}), (100, {}), (100, {})) == [True, True, False]


def test_a_counter_that_moves_with_every_token_is_noticed_at_the_end_of_the_request():
    assert results((0, {(0, 1): 1}), (50, {(0, 1): 51}), (60, {}), (60, {})) == [True, True, True, False]


def test_nothing_is_expected_of_a_restarted_server():
    assert results((100, {(0, 1): 90}), (0, {}), (5, {}), (5, {})) == [True] * 4


# ------------------------------------------------------------------------------------------------ through a source


class Llama:
    """A server with settable pages."""

    def __init__(self) -> None:
        self.counter = 0
        self.running = 0
        self.slots: bytes | None = answer("[]", content_type="application/json")

    def __call__(self, asked: Asked) -> bytes | None:
        path = asked.path.partition("?")[0]
        if path.endswith("/metrics"):
            return answer(
                f"llamacpp:tokens_predicted_total {self.counter}\nllamacpp:requests_processing {self.running}\n"
            )
        if path.endswith("/slots"):
            return self.slots
        return NOT_FOUND

    def at_work(self, *decoded: int) -> None:
        self.running = len(decoded)
        slots = [slot(number, 10 + number, tokens) for number, tokens in enumerate(decoded)]
        self.slots = answer(json.dumps(slots), content_type="application/json")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def source_of(llama: Llama, path: str = "", **options: Any) -> Iterator[tuple[PageServer, ScrapeSource]]:
    with PageServer(llama) as server:
        source = ScrapeSource("chat", server.url + path, LLAMACPP, model="smol", **options)
        yield server, source
        source.close()


def tokens(read: ServerReading) -> float:
    return sum(one.output_tokens for one in read.in_flight)


def test_t01_tokens_in_flight_are_read_after_the_counter():
    llama = Llama()
    llama.at_work(30, 12)
    with source_of(llama) as (server, source):
        found = source.read()
    assert found.in_flight == (InFlight("smol", 42.0),)
    assert (found.cadence, found.note) == (Cadence.STEP, "")
    assert [path for path in server.paths() if path in ("/metrics", "/slots")] == ["/metrics", "/slots"]


def test_slots_of_an_idle_server_are_not_requested():
    with source_of(Llama()) as (server, source):
        found = source.read()
    assert "/slots" not in server.paths()
    assert (found.in_flight, found.cadence) == ((), Cadence.STEP)


def test_slots_of_a_router_s_model_are_requested_with_the_query_of_its_page():
    llama = Llama()
    llama.at_work(30)
    with source_of(llama, "/up/metrics?model=a&autoload=false") as (server, source):
        assert tokens(source.read()) == 30.0
    assert "/up/slots?model=a&autoload=false" in server.paths()


@pytest.mark.parametrize("status", [501, 404, 401])
def test_without_slots_the_page_is_read_and_a_note_names_the_flag(status: int):
    llama, clock = Llama(), Clock()
    llama.at_work(30)
    slots, llama.slots = llama.slots, answer("{}", status=status, content_type="application/json")
    with source_of(llama, clock=clock) as (server, source):
        first, second = source.read(), source.read()
        asked = server.paths().count("/slots")
        llama.slots = slots
        clock.now += 61.0
        third = source.read()
    assert (first.in_flight, first.cadence) == ((), Cadence.FINISH)
    assert first.note == second.note
    assert first.note.startswith(f"{server.url}/slots: HTTP {status}, so tokens are counted when requests end")
    assert "--slots" in first.note
    assert asked == 1
    assert (tokens(third), third.cadence, third.note) == (30.0, Cadence.STEP, "")


def test_an_unexpected_document_is_noted():
    llama = Llama()
    llama.at_work(30)
    llama.slots = answer('{"slots": 4}', content_type="application/json")
    with source_of(llama) as (_, source):
        assert "unexpected JSON" in source.read().note


def test_slots_that_close_the_connection_do_not_fail_the_page_and_are_paused():
    llama, clock = Llama(), Clock()
    llama.at_work(30)
    slots, llama.slots = llama.slots, None
    with source_of(llama, clock=clock) as (server, source):
        first = source.read()
        asked = server.paths().count("/slots")
        source.read()
        assert server.paths().count("/slots") == asked
        llama.slots = slots
        clock.now += 11.0
        again = source.read()
    assert (first.in_flight, first.cadence, first.note) == ((), Cadence.STEP, "")
    assert tokens(again) == 30.0


def test_t17_a_build_that_drops_the_tokens_of_disconnected_clients_is_counted_by_its_counter_for_an_hour():
    llama, clock = Llama(), Clock()
    llama.at_work(30)
    with source_of(llama, clock=clock) as (_, source):
        assert tokens(source.read()) == 30.0
        llama.at_work()
        source.read()
        reading = source.read()
        llama.at_work(99)
        clock.now += 3599.0
        after = source.read()
        clock.now += 1.0
        later = source.read()
    assert "did not rise by the tokens" in reading.note
    assert (after.in_flight, after.cadence, after.note) == ((), Cadence.FINISH, reading.note)
    assert (tokens(later), later.cadence, later.note) == (99.0, Cadence.STEP, "")


def test_slots_are_not_attributed_on_a_page_of_several_models():
    llama = Llama()
    llama.at_work(30)

    def two_models(asked: Asked) -> bytes | None:
        if asked.path == "/metrics":
            lines = (f'llamacpp:tokens_predicted_total{{model="{model}"}} 5\n' for model in "ab")
            return answer("".join(lines) + "llamacpp:requests_processing 1\n")
        return llama(asked)

    with PageServer(two_models) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP)
        found = source.read()
        source.close()
    assert found.in_flight == ()
    assert "/slots" not in server.paths()
