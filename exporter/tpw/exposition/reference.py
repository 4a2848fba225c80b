"""Writes the metric reference from the catalogue: ``python -m tpw.exposition.reference docs/metrics.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tpw.exposition.catalogue import CATALOGUE, Metric

_SECTIONS = {
    "tpw_gpu_info": "GPUs",
    "tpw_host_power_watts": "Host",
    "tpw_server_up": "Servers",
    "tpw_tokens_per_second": "Live ratios",
    "tpw_electricity_price_per_kwh": "Money and carbon",
    "tpw_source_up": "Sources",
    "tpw_build_info": "The exporter itself",
}
"""First metric of a section -> title of the section, in the order of the catalogue."""

_INTRODUCTION = """\
# Metrics

<!-- Generated from exporter/tpw/exposition/catalogue.py: python -m tpw.exposition.reference docs/metrics.md -->

Every metric of `/metrics`: its name, type, labels and unit, where the value comes from, and why a series can be missing.
Metrics and labels are added, never renamed.

- A missing series means unknown; 0 means observed zero. There is no NaN, no Inf, and no stale value: what cannot be read
  now is missing now.
- A counter never decreases, and continues across restarts as long as the state directory is preserved.
- `gpu` is the index of the GPU, `uuid` its identity. `model` is `unknown` if the engine names none.
- `state`: `active` (a server that owns the GPU was working), `parked` (owned, a model is loaded, no work), `starting`
  (held by a server that is not ready), `other` (used by a process that is no known server), `idle` (not used),
  `planned_off` (parked or idle in a pause of the setting `planned_off`; shown where one is configured or was booked).
- `kind` of tokens: `input` (prompt tokens computed), `cached_input` (prompt tokens from the prefix cache), `output`
  (generated). They are disjoint. The live ratios have `output` and `total`, the sum of the three.
- `boundary`: `gpu` (the GPU alone), `facility` (the GPU and its share of the host, times PUE).
- `currency` is an ISO 4217 code; an exporter has one currency.
- "The books" are the exporter's own ledger: joules, seconds, tokens and money, added up at every tick.
- The page also has the `process_*` metrics of the Prometheus client library.
"""


def sections() -> Iterator[tuple[str, list[Metric]]]:
    """The catalogue by section: (title, metrics)."""
    title, rows = "", list[Metric]()
    for metric in CATALOGUE:
        if metric.name in _SECTIONS:
            if rows:
                yield title, rows
            title, rows = _SECTIONS[metric.name], []
        rows.append(metric)
    yield title, rows


def markdown() -> str:
    """The whole reference."""
    parts = [_INTRODUCTION]
    for title, rows in sections():
        lines = [
            f"\n## {title}\n",
            "| metric | type | labels | meaning | absent when |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [_row(metric) for metric in rows]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    cells = (f"`{metric.name}`", str(metric.kind), labels, metric.help, metric.absent or "never")
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
