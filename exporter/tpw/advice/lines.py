"""One line of advice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tpw.advice.fleet import Estimate

LEAST_RATIO = 0.01
"""A saving below this part of what its subject costs is none: it is within the errors of what is measured."""


class Kind(StrEnum):
    """What a line is about."""

    IDLE = "idle"
    """A GPU that nobody uses."""
    PARKED = "parked"
    """A server without requests."""
    SCHEDULE = "schedule"
    """Hours of the week without requests."""
    CONSOLIDATE = "consolidate"
    """Servers with a load that fits on fewer of them."""
    POWER_LIMIT = "power_limit"
    SHIFT = "shift"
    """Work that can wait for cheaper hours, or for a lower peak."""
    CONTRACT = "contract"
    ELSEWHERE = "elsewhere"
    """A model that costs more here than a reference."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What saves money, how much, how that was calculated, and how it is done."""

    kind: Kind
    subject: str
    saving: Estimate
    """Money a month."""
    paid_per_month: float
    """The part by which bills fall: electricity and rent. The rest is time of GPUs that are paid for already, and is saved
    where other work uses it, or where they are sold."""
    what: str
    why: str
    how: str
    since_seconds: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    """Figures of ``why``, by name."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What the books do not show, and what would."""

    kind: Kind
    subject: str
    text: str
