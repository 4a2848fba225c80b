"""Which connection makes way when the server is full."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.exposition.admission import Limits, Phase, admit, may_use_reserve, peer_of

LIMITS = Limits(connections=8, per_peer=5, reserve=3)


@dataclass(frozen=True)
class Seat:
    peer: str
    phase: Phase
    since_seconds: float = 0.0
    is_reserve: bool = False


def test_a_connection_is_admitted_while_there_is_a_place():
    assert admit("a", [Seat("a", Phase.HANDLING)] * 4, LIMITS)[0].admitted
    assert admit("a", [Seat("a", Phase.HANDLING)] * 4, LIMITS)[1] is None


@pytest.mark.parametrize(
    ("slowest", "others"),
    [
        (Seat("a", Phase.IDLE, 7.0), [Seat("a", Phase.IDLE, 8.0), Seat("a", Phase.RECEIVING, 1.0)]),
        (Seat("a", Phase.RECEIVING, 7.0), [Seat("a", Phase.RECEIVING, 8.0), Seat("a", Phase.SENDING, 1.0)]),
        (Seat("a", Phase.SENDING, 7.0), [Seat("a", Phase.SENDING, 8.0), Seat("a", Phase.HANDLING, 1.0)]),
    ],
)
def test_idle_connections_make_way_before_incomplete_requests_and_those_before_answers(
    slowest: Seat, others: list[Seat]
):
    seats = [*others, slowest, *[Seat("a", Phase.HANDLING)] * 2]
    admission, victim = admit("a", seats, LIMITS)
    assert admission.admitted
    assert victim is slowest


def test_the_peer_with_the_most_connections_makes_way_for_another():
    seats = [Seat("greedy", Phase.RECEIVING, 9.0)] * 5 + [Seat("modest", Phase.IDLE, 1.0)] * 3
    victim = admit("new", seats, LIMITS)[1]
    assert victim is not None
    assert victim.peer == "greedy"


def test_a_peer_above_its_budget_makes_way_for_itself():
    seats = [Seat("greedy", Phase.IDLE, 9.0)] * 5 + [Seat("modest", Phase.IDLE, 1.0)]
    victim = admit("greedy", seats, LIMITS)[1]
    assert victim is not None
    assert victim.peer == "greedy"


def test_when_every_request_is_being_carried_out_there_is_a_reserve_and_then_a_refusal():
    busy = [Seat("a", Phase.HANDLING)] * 8
    assert admit("b", busy, LIMITS)[0].from_reserve
    reserved = [Seat("b", Phase.HANDLING, is_reserve=True)] * 3
    assert not admit("b", [*busy, *reserved], LIMITS)[0].admitted
    slow = Seat("b", Phase.RECEIVING, is_reserve=True)
    assert admit("b", [*busy, *reserved[:2], slow], LIMITS)[1] is slow


def test_the_reserve_is_for_probes_and_for_the_first_request_of_a_peer():
    seat = Seat("a", Phase.HANDLING, is_reserve=True)
    assert may_use_reserve(seat, "/-/healthy", [seat, Seat("a", Phase.HANDLING)])
    assert may_use_reserve(seat, "/metrics", [seat, Seat("b", Phase.HANDLING)])
    assert not may_use_reserve(seat, "/metrics", [seat, Seat("a", Phase.HANDLING)])


PHASES = st.sampled_from(Phase)
SEATS = st.lists(st.builds(Seat, st.sampled_from("abcd"), PHASES, st.floats(0.0, 100.0)), max_size=8)


@given(SEATS, st.sampled_from("abcdnew"))
def test_who_is_not_carrying_out_a_request_keeps_nobody_out(seats: list[Seat], peer: str):
    admission, victim = admit(peer, seats, LIMITS)
    assert admission.admitted
    assert victim is None or victim.phase is not Phase.HANDLING
    left = [seat for seat in seats if seat is not victim]
    if not admission.from_reserve:
        assert len(left) < LIMITS.connections
        assert victim is not None or sum(seat.peer == peer for seat in left) < LIMITS.per_peer
    else:
        rivals = [seat for seat in seats if seat.peer == peer]
        rivals = rivals if len(rivals) >= LIMITS.per_peer else seats
        assert all(seat.phase is Phase.HANDLING for seat in rivals)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
    ],
)
def test_a_peer_is_a_host(address: str, peer: str):
    assert peer_of(address) == peer
