"""The metric reference, written from the catalogue: ``python -m tpw.exposition.reference docs/metrics.md``."""

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
"""Title of the section that begins with a metric, in the order of the catalogue."""

_INTRODUCTION = """\
# Metrics

<!-- Generated from exporter/tpw/exposition/catalogue.py: python -m tpw.exposition.reference docs/metrics.md -->

What `/metrics` shows. Names and labels are a promise: they are added to, and not renamed.

- Absent means unknown, 0 means observed zero. There is no NaN, no Inf and no last value that is kept alive.
- A counter never falls, not across restarts either while the state directory lives.
- `gpu` is the index of the board, `uuid` its identity. `model` is `unknown` where an engine names none.
- `state`: `active` (a server that owns the GPU was working), `parked` (owned, a model is loaded, no work), `idle` (nobody
  owns it).
- `kind` of tokens: `input` (prompt tokens computed), `cached_input` (from the prefix cache), `output`. They are disjoint.
  The live ratios have `output` and `total`, the sum of the three.
- `boundary`: `gpu` (the board), `facility` (the board and its share of the host, times PUE).
- `currency` is an ISO 4217 code; an exporter has one.
- Beside these stand `process_*` of the Prometheus client library.
"""


def sections() -> Iterator[tuple[str, list[Metric]]]:
    """The catalogue in sections: (title, metrics)."""
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
