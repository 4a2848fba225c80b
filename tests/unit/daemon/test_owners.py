"""Scans, as the daemon uses them."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tpw.daemon.ownership import Owners
from tpw.discovery.scan import HostScan
from tpw.ledger.books import Books, GpuAccount
from tpw.model import Gpu, GpuSample


def test_a_problem_of_a_scan_is_logged_once_though_it_comes_and_goes() -> None:
    now = 0.0
    owners = Owners(lambda: now)
    with capture_logs() as lines:
        for _ in range(4 * 60 * 6):
            owners.receive(HostScan(problems=("port 1: unknown",)))
            owners.receive(HostScan())
            now += 15.0
        assert [line["detail"] for line in lines] == ["port 1: unknown"]
        now += 3601.0
        owners.receive(HostScan(problems=("port 1: unknown",)))
    assert len(lines) == 2


def memory(gigabytes: float | None) -> GpuSample:
    return GpuSample("GPU-0", 0.0, memory_used_bytes=None if gigabytes is None else gigabytes * 2**30)


@pytest.mark.parametrize(
    ("before", "now", "holders", "expected"),
    [
        (0.5, 0.9, frozenset(), True),
        (0.5, 0.51, frozenset(), False),  # the driver's own
        (0.9, 0.5, frozenset(), False),
        (0.5, 9.0, {7}, False),  # known already
        (0.5, 9.0, None, False),  # the driver lists none
        (None, 9.0, frozenset(), False),
        (0.5, None, frozenset(), False),
    ],
)
def test_memory_that_is_allocated_on_a_free_gpu_shows_that_a_process_holds_it(
    before: float | None, now: float | None, holders: frozenset[int] | None, expected: bool
) -> None:
    owners = Owners(lambda: 0.0)
    owners.holders = {"GPU-0": holders}
    books = Books(gpus={"GPU-0": GpuAccount(Gpu("GPU-0", 0), sample=memory(before))})
    assert owners.is_taken((memory(now),), books) == expected
    assert not owners.is_taken((memory(now),), Books())


@pytest.mark.parametrize(
    ("before", "now", "holders", "expected"),
    [
        (0.0, 0.1, frozenset(), True),
        (0.1, 0.9, frozenset(), False),  # it went on: the list was read when it began
        (0.0, 0.0, frozenset(), False),
        (None, 0.9, frozenset(), False),
        (0.0, None, frozenset(), False),
        (0.0, 0.9, {7}, False),
        (0.0, 0.9, None, False),
    ],
)
def test_work_that_begins_on_a_free_gpu_shows_that_a_process_holds_it(
    before: float | None, now: float | None, holders: frozenset[int] | None, expected: bool
) -> None:
    owners = Owners(lambda: 0.0)
    owners.holders = {"GPU-0": holders}
    was = GpuSample("GPU-0", 0.0, utilization_ratio=before)
    books = Books(gpus={"GPU-0": GpuAccount(Gpu("GPU-0", 0), sample=was)})
    assert owners.is_taken((GpuSample("GPU-0", 1.0, utilization_ratio=now),), books) == expected
