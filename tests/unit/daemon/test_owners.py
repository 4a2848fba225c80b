"""Scans, as the daemon uses them."""

from __future__ import annotations

from structlog.testing import capture_logs

from tpw.daemon.ownership import Owners
from tpw.discovery.scan import HostScan


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
