"""Tables of docs/accuracy.md; the loss table: scenario by scenario, what the GPU used, what was booked of it, and what is
known to be missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"
HEADINGS = ("scenario", "method", "true J", "booked J", "error %", "unmetered s", "anomalies")


@dataclass(frozen=True, slots=True)
class Loss:
    """One row."""

    method: str
    true_joules: float
    booked_joules: float
    unmetered_seconds: float
    anomalies: Mapping[str, int]

    @property
    def error(self) -> float:
        return (self.booked_joules - self.true_joules) / self.true_joules if self.true_joules else 0.0

    def cells(self, scenario: str) -> tuple[str, ...]:
        return (
            scenario,
            self.method,
            f"{self.true_joules:.0f}",
            f"{self.booked_joules:.0f}",
            f"{100 * self.error:+.3f}".replace("-0.000", "+0.000"),
            f"{self.unmetered_seconds:.1f}",
            ", ".join(f"{reason} {count}" for reason, count in sorted(self.anomalies.items())),
        )


Losses = dict[str, Loss]
LOSSES = pytest.StashKey[Losses]()


def table(losses: Mapping[str, Loss]) -> list[str]:
    """As a table of Markdown, its columns aligned."""
    return aligned([HEADINGS, *(loss.cells(scenario) for scenario, loss in losses.items())])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, the first being the headings; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = [
        len(rows) > 1 and all(_is_number(row[column]) for row in rows[1:] if row[column])
        for column in range(len(widths))
    ]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        + " |"
        for row in rows
    ]
    rule = "| " + " | ".join("-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + " |"
    return [lines[0], rule, *lines[1:]]


def documented(command: str, lines: Sequence[str]) -> list[str]:
    """The lines of the table that a command writes into the document; with ``UPDATE_GOLDEN=1`` they are first replaced."""
    begin, end = f"<!-- begin: written by UPDATE_GOLDEN=1 {command} -->", "<!-- end -->"
    head, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    assert begin, f"docs/accuracy.md has no table of {command}"
    before, end, tail = rest.partition(end)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        before = "\n".join(["", *lines, ""])
        DOCUMENT.write_text(head + begin + before + end + tail, encoding="utf-8")
    return before.strip().splitlines()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
