"""How several servers share a GPU's time."""

from __future__ import annotations

import math

import pytest

from tpw.ledger.attribution import Activity, divide
from tpw.ledger.books import Division, PostingKey
from tpw.model import Attribution, Ownership, Part, SplitMethod, State

G = "GPU-0"
SLICES = SplitMethod.SLICES


def owner(name: str, sm: float | None = None, instances: tuple[str, ...] = ()) -> Ownership:
    shares = {} if sm is None else {G: sm}
    return Ownership(name, frozenset({G}), Attribution.CONFIGURED, shares=shares, instances=frozenset(instances))


def divided(*owners: tuple[Ownership, bool | None], parts: tuple[Part, ...] = (), busy: float = 0.5) -> Division:
    """The division of one GPU among owners, each with whether it worked."""
    activities = {one.server: Activity(owns=True, active=active, models=(("m", 1.0),)) for one, active in owners}
    return divide(G, {one.server: one for one, _ in owners}, activities, busy, parts)


def split(division: Division) -> dict[str, tuple[float, State]]:
    assert math.isclose(math.fsum(weight for _, weight in division.shares), 1.0)
    return {key.server: (weight, key.state) for key, weight in division.shares}


def test_nobody_there_is_idle() -> None:
    assert divided() == Division(((PostingKey(G, "", "", State.IDLE), 1.0),), None)


def test_one_owner_has_it_all() -> None:
    division = divided((owner("a", sm=3.0), True))

    assert (split(division), division.method) == ({"a": (1.0, State.ACTIVE)}, SplitMethod.SOLE)


def test_servers_that_work_share_by_what_their_processes_used() -> None:
    division = divided((owner("a", sm=60.0), True), (owner("b", sm=20.0), True))

    assert division.method is SplitMethod.SM
    assert split(division) == {"a": (0.75, State.ACTIVE), "b": (0.25, State.ACTIVE)}
    assert (division.ratio("a"), division.ratio("b"), division.ratio("c")) == (0.75, 0.25, 0.0)


@pytest.mark.parametrize(("a", "b"), [(None, None), (60.0, None), (0.0, 0.0)])
def test_use_that_is_not_known_of_all_splits_evenly(a: float | None, b: float | None) -> None:
    division = divided((owner("a", sm=a), True), (owner("b", sm=b), True))

    assert division.method is SplitMethod.EVEN
    assert split(division) == {"a": (0.5, State.ACTIVE), "b": (0.5, State.ACTIVE)}


def test_a_parked_server_beside_a_working_one_takes_nothing() -> None:
    division = divided((owner("a", sm=1.0), True), (owner("b", sm=99.0), False))

    assert (split(division), division.method) == ({"a": (1.0, State.ACTIVE)}, SplitMethod.SOLE)


def test_where_none_works_all_are_parked_on_it() -> None:
    division = divided((owner("a"), False), (owner("b"), False))

    assert split(division) == {"a": (0.5, State.PARKED), "b": (0.5, State.PARKED)}


PARTS = (Part("MIG-a", "1g", 1 / 7, SLICES), Part("MIG-b", "3g", 3 / 7, SLICES))


def test_a_parked_server_keeps_its_own_instance_and_the_rest_is_idle() -> None:
    division = divided((owner("a", instances=("MIG-a",)), True), (owner("b", instances=("MIG-b",)), False), parts=PARTS)

    assert division.method is SLICES
    assert split(division) == {
        "a": (pytest.approx(1 / 7), State.ACTIVE),
        "b": (pytest.approx(3 / 7), State.PARKED),
        "": (pytest.approx(3 / 7), State.IDLE),
    }


def test_an_instance_that_nobody_owns_is_idle() -> None:
    assert split(divided((owner("a", instances=("MIG-a",)), True), parts=PARTS)) == {
        "a": (pytest.approx(1 / 7), State.ACTIVE),
        "": (pytest.approx(6 / 7), State.IDLE),
    }


def test_two_servers_on_one_instance_share_it() -> None:
    both = ("MIG-b",)
    division = divided((owner("a", instances=both), True), (owner("b", instances=both), True), parts=PARTS)

    assert split(division)["a"] == split(division)["b"] == (pytest.approx(1.5 / 7), State.ACTIVE)


def test_a_server_on_two_instances_has_both() -> None:
    division = divided((owner("a", instances=("MIG-a", "MIG-b")), True), parts=PARTS)

    assert split(division)["a"] == (pytest.approx(4 / 7), State.ACTIVE)


def test_whoever_owns_a_partitioned_gpu_as_a_whole_has_what_nobody_else_is_on() -> None:
    whole = divided((owner("a"), True), parts=PARTS)
    assert (split(whole), whole.method) == ({"a": (1.0, State.ACTIVE)}, SplitMethod.SOLE)

    beside = divided((owner("a"), True), (owner("b", instances=("MIG-b",)), True), parts=PARTS)
    assert split(beside) == {
        "a": (pytest.approx(1 - 1.5 / 7), State.ACTIVE),
        "b": (pytest.approx(1.5 / 7), State.ACTIVE),
    }


@pytest.mark.parametrize(("busy", "state"), [(True, State.ACTIVE), (False, State.PARKED), (None, State.ACTIVE)])
def test_ranks_without_counters_work_while_their_instance_is_busy(busy: bool | None, state: State) -> None:
    part = Part("MIG-a", "1g", 1.0, SplitMethod.GPM, busy)

    assert split(divided((owner("a", instances=("MIG-a",)), None), parts=(part,))) == {"a": (1.0, state)}
