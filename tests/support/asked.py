"""The queries of all dashboards, asked as Grafana asks them, and their answers as rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from grafana.dashboard import CHOICES, FILTERS
from grafana.panels import HERE
from grafana.render import dashboards
from grafana.values import Values

from support import expected_panels
from support.hand import Choice, Rows
from support.samples import Labels

RANGE = 3 * 3600
"""Time range of the dashboards."""
CHOICE = Choice()
"""The defaults of the variables."""
DASHBOARDS: dict[str, dict[str, Any]] = {uid: json.loads(text) for uid, text in dashboards(Values()).items()}


def _queries() -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    for uid, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for inner in panel["panels"] if panel["type"] == "row" else (panel,):
                for target in inner.get("targets", ()):
                    yield (uid, inner["title"], target["refId"]), target


QUERIES = dict(_queries())
assert len(QUERIES) == sum(1 for _ in _queries()), "two panels of a dashboard have the same title"


def filled(expr: str, choice: Choice = CHOICE, values: Mapping[str, str] | None = None) -> str:
    """The expression with every variable filled in, as Grafana would do it."""
    chosen: dict[str, str] = {name: everything for name, (_, _, everything) in FILTERS.items()}
    texts: dict[str, str] = {}
    for name, (_, options) in CHOICES.items():
        texts[name] = getattr(choice, name)
        chosen[name] = dict(options)[texts[name]]
    chosen |= {"reference": "api-70b", "currency": "EUR", "__range": f"{RANGE}s", "__range_s": str(RANGE)}
    chosen |= {"__all": "$__all", "__interval": "1h", "__rate_interval": f"{expected_panels.RATE_INTERVAL}s"}
    chosen |= values or {}
    expr = re.sub(r"\$\{(\w+):text\}", lambda match: texts[match.group(1)], expr)
    return re.sub(r"\$\{?([a-z_]\w*)\}?", lambda match: chosen[match.group(1)], expr)


def rows_of(answer: list[tuple[dict[str, str], float]]) -> Rows:
    """A result as rows, without the name of the metric and what only links read."""
    return {
        tuple(sorted((name, value) for name, value in labels.items() if name not in ("__name__", HERE))): number
        for labels, number in answer
    }


def differences(got: Rows, wanted: Rows) -> list[str]:
    """What differs, in words."""
    words = [f"{words_of(who)} is not there" for who in wanted.keys() - got.keys()]
    words += [f"{words_of(who)} is there, {got[who]}" for who in got.keys() - wanted.keys()]
    for who in got.keys() & wanted.keys():
        if got[who] != pytest.approx(wanted[who], rel=1e-6, abs=1e-9):
            words.append(f"{words_of(who)} is {got[who]}, by hand {wanted[who]}")
    return sorted(words)


def words_of(who: Labels) -> str:
    """Labels as a selector."""
    return "{" + ", ".join(f"{name}={value}" for name, value in who) + "}"
