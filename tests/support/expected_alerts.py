"""Which alerts fire when in the day of :mod:`support.fleetday`, and why."""

from __future__ import annotations

from dataclasses import dataclass

from support import fleetday as day
from support.hand import Rows

A, B = day.A.instance, day.B.instance


def clock(text: str) -> int:
    """A moment of the day."""
    hours, minutes = text.split(":")
    return day.START + int(hours) * 3600 + int(minutes) * 60


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert while it fires, first and last evaluation included."""

    name: str
    severity: str
    labels: tuple[tuple[str, str], ...]
    begin: int
    end: int


def _firing(name: str, severity: str, spells: str, **labels: str) -> list[Firing]:
    found = []
    for spell in spells.split():
        begin, _, end = spell.partition("-")
        found.append(Firing(name, severity, tuple(sorted(labels.items())), clock(begin), clock(end)))
    return found


def expected() -> list[Firing]:
    """Every spell of every alert. A poll is seen by the evaluation a minute later."""
    return [
        # No TpwDemandPeakForming: on the first day of a billing month every interval is a peak.
        # GPU 6 is idle all day: 95 % of half an hour at 00:29, and that for half an hour. Others come and go with it.
        *_firing("TpwGpuIdle", "info", "00:59-24:00", instance=B),
        # Tickets by the money of the node's last 24 hours: see the conditions in the test.
        *_firing("TpwGpuIdle", "warning", "02:28-24:00", instance=B),
        *_firing("TpwGpuParked", "warning", "09:24-15:05 19:24-21:05", instance=A, server="big"),
        *_firing("TpwGpuParked", "warning", "05:32-07:35 22:24-24:00", instance=A, server="code"),
        *_firing("TpwGpuParked", "warning", "09:25-15:05 19:24-21:05", instance=B, server="big"),
        *_firing("TpwGpuLost", "critical", "13:06-14:30", instance=B, gpu="7"),
        # "big" rests from 06:30 to 15:00 and from 16:30 to 21:00: 95 % of two hours, and that for one hour.
        *(
            firing
            for node in (A, B)
            for firing in _firing("TpwGpuParked", "info", "09:24-15:05 19:24-21:05", instance=node, server="big")
        ),
        # "code" begins at 07:30 and ends at 19:30.
        *_firing("TpwGpuParked", "info", "02:55-07:35 22:24-24:00", instance=A, server="code"),
        # The wild number of 11:00, and the way back from it a minute later, each for an hour.
        *_firing("TpwEnergyAnomaly", "info", "11:01-12:00", instance=A, gpu="3", reason="implausible"),
        *_firing("TpwEnergyAnomaly", "info", "11:02-12:01", instance=A, gpu="3", reason="backwards"),
        # Ten minutes of the twelve that "code" is down.
        *_firing("TpwSourceDown", "warning", "15:11-15:12", instance=A, server="code"),
        # Hot at the very top of the day's load only.
        *_firing("TpwGpuThrottled", "warning", "14:23-14:25", instance=A, gpu="3"),
        # Sums over a day: see the conditions in the test.
        *_firing("TpwWasteHigh", "warning", "07:59-24:00"),
        *_firing("TpwCostAboveReference", "info", "06:02-07:31", server="chat", model="llama-3.3-70b"),
        *_firing("TpwCostAboveReference", "info", "13:39-24:00", server="big", model="deepseek-r1"),
    ]


def at(instant: int) -> Rows:
    """Numbers of firing alerts as the overview lists them."""
    shown = ("instance", "gpu", "server", "model")
    rows: Rows = {}
    for firing in expected():
        if firing.begin <= instant <= firing.end:
            who = {name: value for name, value in firing.labels if name in shown}
            about = " ".join(who.get(name, "") for name in shown)
            named = {"about": about, "alertname": firing.name, "severity": firing.severity}
            key = tuple(sorted({**who, **named}.items()))
            rows[key] = rows.get(key, 0.0) + 1
    return rows
