"""The number of workloads in the books."""

from __future__ import annotations

from math import fsum

from hypothesis import given
from hypothesis import strategies as st

from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Division, PostingKey
from tpw.ledger.workloads import bounded
from tpw.model import OTHER_WORKLOAD, SplitMethod, State, Workload, WorkloadKind


def job(number: int) -> Workload:
    return Workload(WorkloadKind.SLURM, str(number))


def key(workload: Workload, gpu: str = "g") -> PostingKey:
    return PostingKey(gpu, "", "", State.OTHER, workload)


def shared(*workloads: Workload) -> dict[str, Division]:
    return {"g": Division(tuple((key(one), 1.0 / len(workloads)) for one in workloads), SplitMethod.SM)}


def test_below_the_limit_nothing_changes() -> None:
    postings = {key(job(1)): Amounts(joules=5.0)}
    assert bounded(shared(job(1), job(2)), postings, 2) == (shared(job(1), job(2)), postings)


def test_the_smallest_that_is_gone_makes_way_for_a_new_one() -> None:
    postings = {key(job(1)): Amounts(joules=5.0), key(job(2)): Amounts(joules=3.0), key(job(3)): Amounts(joules=1.0)}
    divisions, after = bounded(shared(job(3), job(4)), postings, 3)
    assert divisions == shared(job(3), job(4))
    assert set(after) == {key(job(1)), key(job(3)), key(OTHER_WORKLOAD)}
    assert 3.0 <= after[key(OTHER_WORKLOAD)].joules <= 3.0 + 1e-14


def test_if_none_is_gone_the_new_ones_are_booked_together() -> None:
    postings = {key(job(1)): Amounts(joules=5.0)}
    divisions, after = bounded(shared(job(1), job(2), job(3)), postings, 1)
    assert after == postings
    assert dict(divisions["g"].shares) == {key(job(1)): 1.0 / 3.0, key(OTHER_WORKLOAD): 2.0 / 3.0}


@given(st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=12), st.floats(0.0, 1e12))
def test_the_sum_over_all_workloads_never_falls(joules: list[float], other: float) -> None:
    postings = {key(job(number)): Amounts(joules=used) for number, used in enumerate(joules)}
    postings[key(OTHER_WORKLOAD)] = Amounts(joules=other)
    _, after = bounded(shared(job(99)), postings, len(joules))
    before_sum, after_sum = (fsum(one.joules for one in books.values()) for books in (postings, after))
    assert before_sum <= after_sum <= before_sum * (1.0 + 1e-14) + 1e-300
