"""Colours, the same on every dashboard. Only judged values are green, orange or red.

A state is never shown by colour alone: the legend names it, and the order is always the same.
"""

from __future__ import annotations

from tpw.exposition import colours

STATES = {state: css for state, (css, _) in colours.STATES.items()}
"""States of a GPU, in the order of stacking."""
STATE_CODES = {
    5: ("planned off", STATES["planned_off"]),
    4: ("other", STATES["other"]),
    3: ("starting", STATES["starting"]),
    2: ("active", STATES["active"]),
    1: ("parked", STATES["parked"]),
    0: ("idle", STATES["idle"]),
    -1: ("lost", "red"),
}
"""States as numbers, for timelines and tables."""
TOKENS = {"output": "#1f60c4", "input": "#8ab8ff", "cached_input": "#a352cc"}
COMPONENTS = {
    "energy": "#fade2a",
    "hardware": "#7b61c4",
    "hosting": "#9c6644",
    "operations": "#b5835a",
    "gpu_hour": "#8f5bbd",
    "demand": "#c78b1c",
    "fixed": "#a3a04a",
    "capacity": "#7d7a2e",
}
CREDIT = "#56a64b"
"""Credit for negative prices, drawn below zero."""
IDLE = STATES["idle"]
PRICE = "#e0b400"
NEXT = "#8a919e"
CARBON = "#5b7f95"
REFERENCE = "#8a919e"
NEUTRAL = "text"
"""Numbers that are not judged."""
GOOD, WARN, BAD = "green", "orange", "red"

CLASSIC = "palette-classic"
"""Grafana's own, for series that have no colour of their own here (models, nodes, GPUs)."""
