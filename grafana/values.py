"""Every threshold, window and address that an operator may want to change, in one place.

``python -m grafana.build --values my.yaml`` reads a mapping of these names and writes the rules and the dashboards with it.
Budgets and exceptions are series in ``deploy/prometheus/tpw-parameters.rules.yaml``: changing them needs no build.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Values:
    """Parameters of the rules: Prometheus durations, shares from 0 to 1, and amounts with the unit in the name."""

    # ------------------------------------------------------------------------------------------ labels and addresses
    labels: tuple[str, ...] = ("cluster", "namespace", "job")
    """Labels that keep installations apart: every aggregation keeps them. A label that no series has costs nothing."""
    job: str = ".*tpw-exporter.*"
    """Regular expression of the scrape job, for series that every exporter has (``up``)."""
    runbook_url: str = ""
    """Address of a runbook; ``{alert}`` is the name of the alert. Empty: the page of an exporter that is up."""
    grafana_url: str = ""
    """Address of Grafana, before ``/d/``. Empty: an alert names the dashboard by its path."""

    # --------------------------------------------------------------------------------------------------- measuring
    exporter_down_for: str = "5m"
    exporter_absent_for: str = "10m"
    source_down_for: str = "10m"
    slow_source_down_for: str = "2h"
    stale_after_seconds: float = 300
    slow_sources: str = "tariff.*|carbon.*"
    """Sources that are read rarely by design: prices and carbon intensity."""
    local_uuids: str = "PCI-.*|EXT-.*"
    """UUIDs that name a slot and not a device: another node may have the same."""
    gpu_lost_for: str = "5m"
    unmetered_share: float = 0.01
    unmetered_for: str = "15m"
    anomalies_per_hour: float = 3
    unbalanced_share: float = 0.001
    unbalanced_for: str = "15m"
    tokens_without_energy_for: str = "10m"
    impossible_ratio: float = 1.0
    """Tokens per joule over those that are plausible."""
    impossible_for: str = "15m"
    without_usage_share: float = 0.05
    without_usage_for: str = "30m"
    energy_without_tokens_active_share: float = 0.5
    price_not_live_for: str = "2h"
    reload_failed_for: str = "5m"
    books_not_saved_seconds: float = 600
    books_not_saved_for: str = "5m"

    # ------------------------------------------------------------------------------------------------------- waste
    idle_share: float = 0.95
    idle_for: str = "30m"
    idle_warning_money: float = 10
    """Cost of a node's idle time in 24 hours from which on it is a ticket, in the currency of the exporter."""
    idle_warning_for: str = "8h"
    """The same where nothing has a price."""
    parked_share: float = 0.95
    parked_for: str = "1h"
    parked_warning_money: float = 10
    """Cost of a node's parked time in 24 hours from which on it is a ticket, in the currency of the exporter."""
    parked_warning_for: str = "8h"
    """The same where nothing has a price."""
    waste_share: float = 0.4
    waste_floor_per_day: float = 10
    """Minimum waste per day for an alert, in the currency of the exporter."""
    waste_for: str = "1h"

    # -------------------------------------------------------------------------------------------------- efficiency
    under_batched_ratio: float = 0.5
    under_batched_active_share: float = 0.5
    under_batched_for: str = "2h"
    regressed_ratio: float = 0.8
    regressed_load_band: float = 0.3
    regressed_for: str = "30m"
    tokens_floor_per_hour: float = 100_000
    """Minimum tokens per hour: below it, ratios are noise."""

    # ------------------------------------------------------------------------------------------------------- money
    cost_per_token_ratio: float = 1.25
    cost_per_token_price_ratio: float = 1.25
    cost_per_token_for: str = "1h"  # noqa: S105 - a duration
    over_budget_ratio: float = 1.0
    over_budget_for: str = "1h"
    above_reference_ratio: float = 1.0
    above_reference_for: str = "6h"
    budget_burn_ratio: float = 2.0
    budget_forecast_ratio: float = 1.0
    budget_forecast_for: str = "1h"
    spend_changed_ratio: float = 1.2
    spend_changed_for: str = "1h"
    price_high_ratio: float = 2.0
    price_high_ahead_seconds: float = 3600
    demand_peak_share: float = 0.95
    demand_interval_minutes: int = 15
    demand_last_minutes: int = 5
    """The alert fires only in these last minutes of an interval, when a peak is likely and can still be avoided."""
    demand_for: str = "2m"

    # ---------------------------------------------------------------------------------------------------- hardware
    throttled_share: float = 0.1
    throttled_for: str = "15m"
    throttle_reasons: str = "hw_.*"
    """Hardware slowdowns. A software power cap is normal under load."""

    def with_changes(self, changes: dict[str, Any]) -> Values:
        """These values with some replaced. Raises ValueError for an unknown name or a value of another type."""
        known = {field.name: field for field in dataclasses.fields(self)}
        clean: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"{name} is not a known value; known are: {', '.join(sorted(known))}")
            default = getattr(self, name)
            if isinstance(default, tuple):
                if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
                    raise ValueError(f"{name} must be a list of label names, not {value!r}")
                clean[name] = tuple(value)
            elif isinstance(default, str):
                if not isinstance(value, str):
                    raise ValueError(f"{name} must be a string such as {default!r}, not {value!r}")
                clean[name] = value
            elif isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} must be a number such as {default!r}, not {value!r}")
            else:
                clean[name] = value
        return dataclasses.replace(self, **clean)

    @classmethod
    def load(cls, path: Path | None) -> Values:
        """The defaults, with the values of the file. Raises ValueError for a file that is not a mapping of known names."""
        if path is None:
            return cls()
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a mapping of names and values")
        return cls().with_changes(content)


def addresses(runbooks: str | None, grafana: str | None) -> dict[str, str]:
    """The values for two URLs: of the directory of the runbooks (or with ``{alert}`` in it), and of Grafana.

    Raises ValueError for anything else.
    """
    found: dict[str, str] = {}
    for name, given in (("runbook_url", runbooks), ("grafana_url", grafana)):
        if given is None:
            continue
        if not given.startswith(("http://", "https://")):
            raise ValueError(f"{given} is not a URL: use https://host/path")
        found[name] = given.rstrip("/")
    if "runbook_url" in found and "{alert}" not in found["runbook_url"]:
        found["runbook_url"] += "/{alert}.md"
    return found


def number(value: float) -> str:
    """A number as PromQL: no exponent for the sizes used here, no trailing zeros."""
    return f"{value:.12g}"
