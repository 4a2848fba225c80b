"""One colour per meaning: on the exporter's page, in ``top`` and on dashboards."""

from __future__ import annotations

import re

from grafana import palette

from tpw.cli import top
from tpw.exposition.colours import STATES
from tpw.exposition.landing_assets import STYLE


def test_a_state_has_the_same_colour_on_the_page_in_top_and_on_dashboards():
    names = "|".join(STATES)
    assert dict(re.findall(rf"--({names}):(#\w+)", STYLE)) == palette.STATES
    for name in STATES:
        assert f".state.{name} i{{background:var(--{name})}}" in STYLE or name == "idle"
    assert {name: top._COLOURS[name] for name in STATES} == {name: ansi for name, (_, ansi) in STATES.items()}
