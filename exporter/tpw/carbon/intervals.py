"""Intensities from any list, by the readers of price lists."""

from __future__ import annotations

from dataclasses import dataclass

from tpw.carbon import Basis, CarbonSettings
from tpw.carbon.feed import FromFeed, intensity_feed
from tpw.carbon.fields import basis_setting, fallback_setting
from tpw.settings.scalars import choice, text
from tpw.settings.shapes import Report, setting
from tpw.tariff.context import FeedContext
from tpw.tariff.tables import Table

GRAMS = {"g/kWh": 1.0, "kg/MWh": 1.0, "lb/MWh": 0.45359237, "kg/kWh": 1000.0}
"""Unit of a list -> grams per kWh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityTable(Table, CarbonSettings):
    """Intensities by interval: any JSON, CSV or Prometheus series from a `url` or `file`."""

    value: str | None = setting(text("a field"), "Field, column or path of the number.", default=None)
    unit: str = setting(choice(*GRAMS), "Unit of the numbers.", default="g/kWh")
    basis: str = basis_setting()
    fallback_grams_per_kwh: float | None = fallback_setting()

    def check(self, path: str, timezone: str | None, report: Report) -> None:
        """See CarbonSettings."""
        given = [key for key in ("url", "file") if getattr(self, key) is not None]
        if len(given) != 1:
            report(path, f"give one of `url` and `file`{', not both' if given else ''}")
            return
        self.check_list(path, "value", timezone, report)

    def source(self, timezone: str | None, context: FeedContext) -> FromFeed:
        """See CarbonSettings."""
        layout = self.layout(self.value, GRAMS[self.unit], timezone)
        reader = self.reader(layout, context)
        schedule, cache = self.schedule(None, context), self.cache_file(context, reader, layout)
        return intensity_feed(reader, Basis(self.basis), self.fallback_grams_per_kwh, context, schedule, cache)
