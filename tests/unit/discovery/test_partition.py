"""The parts of a partitioned GPU: the weight of each instance and its method."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.discovery.partition import parts
from tpw.model import Instance, Part, Sharing, SplitMethod

SLICES, GPM = SplitMethod.SLICES, SplitMethod.GPM


def weights(sharing: Sharing) -> dict[str, float]:
    return {part.instance: part.weight for part in parts(sharing)}


def test_a_gpu_that_is_not_partitioned_has_no_parts() -> None:
    assert parts(Sharing(frozenset({1}), {1: 50.0})) == ()


def test_without_measured_activity_an_instance_has_its_share_of_slices() -> None:
    sharing = Sharing(instances=(Instance("MIG-a", "1g.10gb", 1), Instance("MIG-b", "3g.40gb", 3)), slices=7)

    assert parts(sharing) == (
        Part("MIG-a", "1g.10gb", 1 / 7, SLICES),
        Part("MIG-b", "3g.40gb", 3 / 7, SLICES),
    )


def test_a_gpu_that_reports_no_slices_has_those_of_its_instances() -> None:
    assert weights(Sharing(instances=(Instance("MIG-a", slices=1), Instance("MIG-b", slices=3)))) == {
        "MIG-a": 0.25,
        "MIG-b": 0.75,
    }


def test_baseline_power_is_split_by_slices_and_the_rest_by_busy_slices() -> None:
    """70 W baseline of 280 W: a quarter by slices of 7, three quarters by 1 * 0.9 and 3 * 0.1 slices."""
    sharing = Sharing(
        instances=(Instance("MIG-a", slices=1, busy_ratio=0.9), Instance("MIG-b", slices=3, busy_ratio=0.1)),
        slices=7,
        baseline_power_ratio=0.25,
    )

    assert [part.method for part in parts(sharing)] == [GPM, GPM]
    assert weights(sharing) == {
        "MIG-a": pytest.approx(0.25 / 7 + 0.75 * 0.9 / 1.2),
        "MIG-b": pytest.approx(0.25 * 3 / 7 + 0.75 * 0.3 / 1.2),
    }


def test_activity_that_may_be_a_share_of_the_whole_gpu_is_no_weight_but_still_marks_busy_instances() -> None:
    """Both fully busy as shares of the whole GPU: slices times ratio would give the large one 16 times as much."""
    sharing = Sharing(
        instances=(Instance("MIG-a", slices=1, busy_ratio=1 / 7), Instance("MIG-b", slices=4, busy_ratio=4 / 7)),
        slices=7,
        baseline_power_ratio=0.25,
        busy_comparable=False,
    )

    assert parts(sharing) == (
        Part("MIG-a", "", 1 / 7, SLICES, busy=True),
        Part("MIG-b", "", 4 / 7, SLICES, busy=True),
    )


def test_if_nothing_is_busy_all_power_is_baseline() -> None:
    sharing = Sharing(instances=(Instance("MIG-a", slices=1, busy_ratio=0.0),), slices=7, baseline_power_ratio=0.5)

    assert parts(sharing) == (Part("MIG-a", "", 1 / 7, GPM, busy=False),)


@pytest.mark.parametrize(
    ("busy", "baseline"), [((0.9, None), 0.25), ((0.9, 0.1), None)], ids=["one instance unknown", "no power measured"]
)
def test_activity_that_is_missing_for_one_instance_is_used_for_none(
    busy: tuple[float, float | None], baseline: float | None
) -> None:
    instances = tuple(Instance(f"MIG-{i}", slices=1, busy_ratio=ratio) for i, ratio in enumerate(busy))

    assert [part.method for part in parts(Sharing(instances=instances, slices=7, baseline_power_ratio=baseline))] == [
        SLICES,
        SLICES,
    ]


instances = st.builds(
    Instance,
    uuid=st.uuids().map(str),
    slices=st.integers(1, 7),
    busy_ratio=st.one_of(st.none(), st.floats(-0.5, 1.5)),
)


@given(
    st.lists(instances, max_size=7, unique_by=lambda i: i.uuid),
    st.integers(0, 8),
    st.one_of(st.none(), st.floats(-1.0, 2.0)),
)
def test_parts_are_never_negative_and_never_more_than_the_gpu(
    found: list[Instance], slices: int, baseline: float | None
) -> None:
    found_parts = parts(Sharing(instances=tuple(found), slices=slices, baseline_power_ratio=baseline))

    assert all(part.weight >= 0.0 for part in found_parts)
    assert math.fsum(part.weight for part in found_parts) <= 1.0 + 1e-12
