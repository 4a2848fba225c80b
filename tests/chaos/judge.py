"""The laws, checked from outside on the scraped pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from support.scraped import Labels, Page

TOLERANCE = 1e-6
"""Relative: a page prints shortest exact numbers, but sums are rounded once more here."""

ABSURD = 1e12
"""The highest plausible rise is 5 million tokens a second for a minute and a few seconds."""

Key = tuple[str, Labels]


@dataclass
class Judge:
    """Sees every page of a run, in order. ``problems`` are the laws that did not hold."""

    problems: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Counters that fell after a fault that destroyed the books, which is no problem but has a price."""
    pages: int = 0
    fault: str = "start"
    """The last fault, for the messages."""
    _highest: dict[Key, float] = field(default_factory=dict)
    _may_lose: bool = False

    def books_destroyed(self) -> None:
        """The books were damaged: the next page may show lower counters, those of a backup or of new books."""
        self._may_lose = True

    def see(self, page: Page) -> None:
        """Check one page."""
        self.pages += 1
        self._counters(page.counters())
        self._plausible(page.counters())
        self._states(page)
        self._owners(page)

    def _counters(self, counters: Mapping[Key, float]) -> None:
        fallen = [
            f"{name}{dict(labels)}: {self._highest[name, labels]:.6g} -> {value:.6g}"
            for (name, labels), value in counters.items()
            if value < self._highest.get((name, labels), 0.0)
        ]
        if fallen and self._may_lose:
            self.lost += fallen
        elif fallen:
            self.problems.append(f"{self.fault}: {len(fallen)} counters fell: {'; '.join(fallen[:3])}")
        if self._may_lose:
            self._highest = {}
            self._may_lose = False
        self._highest.update(counters)

    def _plausible(self, counters: Mapping[Key, float]) -> None:
        """No server and no feed can make a counter absurd."""
        absurd = [
            f"{name}{dict(labels)}: {value!r}" for (name, labels), value in counters.items() if not value < ABSURD
        ]
        if absurd:
            self.problems.append(f"{self.fault}: {'; '.join(absurd[:3])}")

    def _states(self, page: Page) -> None:
        """For each GPU, the joules of its states sum to its energy."""
        for (name, labels), joules in page.items():
            if name != "tpw_gpu_energy_joules_total":
                continue
            uuid = dict(labels)["uuid"]
            self._equal("law 1", uuid, page.sum("tpw_gpu_state_energy_joules_total", uuid=uuid), joules)

    def _owners(self, page: Page) -> None:
        """Servers, those that left the page, and unowned time of the GPUs sum to all GPUs."""
        owned = page.sum("tpw_server_energy_joules_total")
        states = ("idle", "other")
        unowned = sum(page.sum("tpw_gpu_state_energy_joules_total", state=state) for state in states)
        unlisted = page.sum("tpw_books_unlisted_energy_joules")
        self._equal("law 2", "all GPUs", owned + unowned + unlisted, page.sum("tpw_gpu_energy_joules_total"))

    def _equal(self, law: str, what: str, found: float, wanted: float) -> None:
        if abs(found - wanted) > TOLERANCE * max(1.0, abs(wanted)):
            self.problems.append(f"{self.fault}: {law}: {what}: {found!r} instead of {wanted!r}")
