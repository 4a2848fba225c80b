from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from tpw.exposition import figures

if TYPE_CHECKING:
    from tpw.exposition.status import GpuStatus


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, figures.UNKNOWN),
        (0.0, "0"),
        (0.0000004, "4.0e-07"),
        (0.00042, "0.000420"),
        (0.0042, "0.00420"),
        (0.418, "0.418"),
        (0.9996, "1.00"),
        (3.419, "3.42"),
        (9.996, "10.0"),
        (34.19, "34.2"),
        (99.96, "100"),
        (342.4, "342"),
        (999.6, "1,000"),
        (3420.4, "3,420"),
        (9999.6, "10.0k"),
        (34190.0, "34.2k"),
        (999_600.0, "1.00M"),
        (3.42e6, "3.42M"),
        (3.42e9, "3.42G"),
        (3.42e12, "3.42T"),
        (-0.25, "-0.250"),
        (-1234.0, "-1,234"),
    ],
)
def test_three_significant_digits(value: float | None, expected: str):
    assert figures.figure(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, figures.UNKNOWN),
        (0.0, "0 W"),
        (70.5, "70.5 W"),
        (612.5, "612 W"),
        (1399.0, "1,399 W"),
        (12_340.0, "12.3 kW"),
    ],
)
def test_watts(value: float | None, expected: str):
    assert figures.watts(value) == expected


def test_money_needs_a_currency():
    assert figures.money(0.418e-6, "EUR", scale=1e6) == "0.418 EUR"
    assert figures.money(0.418, "") == figures.UNKNOWN
    assert figures.money(None, "EUR") == figures.UNKNOWN


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3.0, "0 s"),
        (0.9, "0 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (7199.0, "119 min"),
        (7200.0, "2 h"),
        (11_400.0, "3 h 10 min"),
        (172_800.0, "2 d"),
        (187_200.0, "2 d 4 h"),
    ],
)
def test_durations(seconds: float, expected: str):
    assert figures.duration(seconds) == expected


def test_moments_are_in_utc():
    assert figures.moment(1_767_225_605.0) == "2026-01-01 00:00:05 UTC"
    assert figures.clock(1_767_225_605.0) == "00:00:05 UTC"
    assert figures.minute(1_767_225_605.0) == "00:00 UTC"


def owned(*owners: str, workloads: dict[str, float] | None = None, **shares: float) -> GpuStatus:
    return cast("GpuStatus", {"owners": list(owners), "shares": shares, "workloads": workloads or {}})


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (owned(), "\u2013"),
        (owned("chat", chat=1.0), "chat"),
        (owned("chat"), "chat"),
        (owned("chat", chat=0.375), "chat 38 %"),
        (owned("chat", "code", chat=0.75, code=0.25), "chat 75 %, code 25 %"),
        (owned("chat", "code", chat=1.0, code=0.0), "chat 100 %, code 0 %"),
        (owned("chat", "code"), "chat \u2013, code \u2013"),
        (owned(workloads={"train.service": 1.0}), "train.service"),
        (owned("chat", workloads={"train.service": 0.9}, chat=0.1), "chat 10 %, train.service 90 %"),
    ],
)
def test_owners_have_their_shares_if_a_gpu_is_shared(gpu: GpuStatus, expected: str):
    assert figures.owners(gpu) == expected
