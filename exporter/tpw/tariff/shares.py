"""Numbers from 0 to 1 that change: the share of the consumption that a layer prices, and a metered power factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpw.model import PriceInterval, Reason, SourceError
from tpw.settings.scalars import number, switch, text
from tpw.settings.shapes import Report, setting
from tpw.tariff.context import FeedContext
from tpw.tariff.feed import Feed
from tpw.tariff.tables import Table

if TYPE_CHECKING:
    from tpw.tariff.settings import Tariff


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareTable(Table):
    """Shares by interval, from 0 to 1: any JSON, CSV or Prometheus series from a `url` or `file`."""

    value: str | None = setting(text("a field"), "Field, column or path of the number.", default=None)
    percent: bool = setting(switch(), "The numbers are percentages.", default=False)

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """Report settings that contradict or need each other."""
        given = [key for key in ("url", "file") if getattr(self, key) is not None]
        if len(given) != 1:
            report(path, f"give one of `url` and `file`{', not both' if given else ''}")
            return
        self.check_list(path, "value", tariff.timezone, report)

    def source(self, timezone: str | None, context: FeedContext) -> Feed:
        """The shares, as a source of numbers."""
        layout = self.layout(self.value, 0.01 if self.percent else 1.0, timezone)
        reader = self.reader(layout, context)
        schedule, cache = self.schedule(None, context), self.cache_file(context, reader, layout)
        return Feed(reader, clock=context.clock, unit="share", schedule=schedule, check=_refuse_other, cache=cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFactorTable(ShareTable):
    """Metered power factors by interval: any JSON, CSV or Prometheus series from a `url` or `file`."""

    fallback: float = setting(
        number("a power factor such as 0.95", above=0.0, maximum=1.0), "Power factor while none is known."
    )


def _refuse_other(fresh: Sequence[PriceInterval], known: Sequence[PriceInterval]) -> None:
    del known
    for interval in fresh:
        if not 0.0 <= interval.price_per_kwh <= 1.0 + 1e-9:
            raise SourceError(
                Reason.MALFORMED,
                f"{interval.price_per_kwh:g} is not from 0 to 1, so it is not a share or power factor",
                "with `percent: true` the numbers are percentages",
            )
