"""What changes slowly and from outside: the price of electricity, the carbon of the grid, the facility's PUE.

An :class:`Outlook` asks the sources of one configuration, keeps what they said, and never loses it because one of them is
down. Asking may take as long as a service takes to answer: it is for a thread that nobody waits for. What it found is a
frozen :class:`Facts`, from which the rules of the ledger are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tpw.config.schema import Config
from tpw.model import SourceError, SourceStatus
from tpw.polling import SourceHealth
from tpw.tariff import FeedContext
from tpw.tariff.contract import Contract
from tpw.tariff.curve import PriceCurve

if TYPE_CHECKING:
    from tpw.carbon import IntensitySource
    from tpw.carbon.curve import IntensityCurve
    from tpw.power.pue import PueQuery
    from tpw.tariff.layers import Layers

AHEAD_SECONDS = 48 * 3600.0
"""How far ahead prices are wanted: the next change is shown, and feeds publish the day before."""
BACK_SECONDS = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known. None where nothing is configured."""

    curve: PriceCurve | None = None
    intensities: IntensityCurve | None = None
    carbon_basis: str = ""
    pue: float = 1.0
    contract: Contract = field(default_factory=Contract)
    """What the source of the prices charges beside them."""


class Outlook:
    """Price, carbon and PUE of one configuration. Nothing is asked before :meth:`ask`.

    Args:
        config: a valid configuration.
        health_of: makes the health record of a source by its name.
        wall: Unix time.
    """

    def __init__(self, config: Config, health_of: Callable[[str], SourceHealth], wall: Callable[[], float]) -> None:
        self._wall = wall
        state = Path(config.state.dir)
        self._prices: Layers | None = config.tariff.prices(FeedContext(wall, cache=state / "prices"))
        self._carbon: IntensitySource | None = None
        if config.carbon is not None:
            context = FeedContext(wall, cache=state / "carbon")
            self._carbon = config.carbon.source(config.tariff.timezone, context)
        self._pue: PueQuery | None = None
        pue = config.facility.pue
        fallback = pue if isinstance(pue, float | int) else pue.fallback
        if not isinstance(pue, float | int):
            from tpw.power.pue import PueQuery

            self._pue = PueQuery(pue.url, pue.query, headers_file=pue.headers_file or "")
        self._fallback_pue = float(fallback)
        self._tariff_health = health_of("tariff")
        self._carbon_health = health_of("carbon")
        self._pue_health = health_of("pue")
        self.facts = Facts(PriceCurve() if self._prices else None, pue=self._fallback_pue)
        """What was found last."""

    @property
    def has_tariff(self) -> bool:
        """Whether electricity has a price at all."""
        return self._prices is not None

    def ask(self, since_seconds: float) -> Facts:
        """Ask every source for what holds from ``since`` (Unix seconds) into the future. Raises nothing: a source that is
        down leaves what it said before."""
        now = self._wall()
        start, end = min(since_seconds, now - BACK_SECONDS), now + AHEAD_SECONDS
        if self._prices is not None:
            self._tried(self._tariff_health, lambda: self._read_prices(start, end))
        if self._carbon is not None:
            self._tried(self._carbon_health, lambda: self._read_carbon(start, end))
        if self._pue is not None and not self._tried(self._pue_health, self._read_pue):
            # Nobody knows for how long an old one would hold.
            self.facts = replace(self.facts, pue=self._fallback_pue)
        return self.facts

    @staticmethod
    def _tried(health: SourceHealth, read: Callable[[], None]) -> bool:
        try:
            health.read(read)
        except SourceError:
            return False
        return True

    def _read_prices(self, start: float, end: float) -> None:
        source = self._prices
        assert source is not None  # noqa: S101 - asked by the caller
        try:
            self.facts = replace(self.facts, curve=PriceCurve.of(source.intervals(start, end)))
        finally:
            self.facts = replace(self.facts, contract=source.contract)
        if source.trouble is not None:
            # Prices known from before, or a fallback, hold; that the feed is down is said all the same.
            raise source.trouble

    def _read_carbon(self, start: float, end: float) -> None:
        from tpw.carbon.curve import IntensityCurve

        source = self._carbon
        assert source is not None  # noqa: S101 - asked by the caller
        curve = IntensityCurve.of(source.intervals(start, end))
        self.facts = replace(self.facts, intensities=curve, carbon_basis=str(source.basis))
        trouble: SourceError | None = getattr(source, "trouble", None)
        if trouble is not None:
            raise trouble

    def _read_pue(self) -> None:
        assert self._pue is not None  # noqa: S101 - asked by the caller
        self.facts = replace(self.facts, pue=self._pue.read())

    def statuses(self) -> tuple[SourceStatus, ...]:
        """The lives of what is configured."""
        return tuple(
            health.status()
            for health, source in (
                (self._tariff_health, self._prices),
                (self._carbon_health, self._carbon),
                (self._pue_health, self._pue),
            )
            if source is not None
        )

    def close(self) -> None:
        """Drop connections."""
        if self._pue is not None:
            self._pue.close()
