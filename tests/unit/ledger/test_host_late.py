"""How long the power of a host component is shown without a new reading."""

from __future__ import annotations

import pytest

from tpw.ledger.books import HostAccount
from tpw.ledger.metering import is_host_late
from tpw.model import Instant


def is_late(gap_seconds: float, age_seconds: float, interval_seconds: float = 1.0) -> bool:
    account = HostAccount(baseline_at_seconds=1000.0, gap_seconds=gap_seconds)
    return is_host_late(account, Instant(1000.0 + age_seconds, 0.0), interval_seconds)


@pytest.mark.parametrize(
    ("gap_seconds", "interval_seconds", "patience_seconds"),
    [
        (1.0, 1.0, 3.0),  # read at every tick
        (30.0, 1.0, 90.0),  # a BMC that is read every half minute
        (1.0, 10.0, 30.0),  # slow ticks
        (0.0, 1.0, 180.0),  # one reading so far: its interval is unknown, and may be that of a slow meter
    ],
)
def test_power_is_shown_for_three_intervals_of_its_own_meter(
    gap_seconds: float, interval_seconds: float, patience_seconds: float
) -> None:
    assert not is_late(gap_seconds, patience_seconds, interval_seconds)
    assert is_late(gap_seconds, patience_seconds + 0.001, interval_seconds)


def test_a_component_that_was_never_read_is_late() -> None:
    assert is_host_late(HostAccount(), Instant(0.0, 0.0), 1.0)
