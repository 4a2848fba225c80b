"""One colour per meaning, on the page, in ``top`` and on dashboards: (CSS, ANSI). A state is named beside its colour."""

from __future__ import annotations

from typing import Final

STATES: Final = {
    "active": ("#3274d9", "34"),
    "other": ("#8f5bbd", "35"),
    "starting": ("#8ab8ff", "96"),
    "parked": ("#ff9830", "33"),
    "idle": ("#8a919e", "90"),
    "planned_off": ("#c7ccd4", "37"),
}
"""States of a GPU, in the order of stacking."""
GOOD: Final = ("#56a64b", "32")
WARN: Final = STATES["parked"]
BAD: Final = ("#e02f44", "31")
