"""Settings in the docs are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tpw.config import load

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
SNIPPETS = [
    pytest.param(snippet, id=f"{name}-{number}")
    for name in ("tariffs.md", "markets.md")
    for number, snippet in enumerate(re.findall(r"```yaml\n(.*?)```", (DOCS / name).read_text(), re.DOTALL), start=1)
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_settings_in_the_docs_are_valid(snippet: str) -> None:
    """Snippets of a layer are put below `tariff`; a currency and an energy price are added where missing."""
    document = yaml.safe_load(snippet)
    if "energy" in document:
        document = {"tariff": document}
    if "tariff" in document:
        document["tariff"] = {"currency": "EUR", "energy": {"price_per_kwh": 0.2}, **document["tariff"]}
    load(yaml.safe_dump(document))


def test_settings_of_markets_are_those_that_the_captures_are_read_by() -> None:
    read = {path.read_text() for path in (ROOT / "tests" / "captures" / "tariff").glob("*.yaml")}
    shown = re.findall(r"```yaml\n(.*?)```", (DOCS / "markets.md").read_text(), re.DOTALL)
    assert shown
    assert set(shown) <= read


def test_the_docs_have_settings() -> None:
    assert len(SNIPPETS) >= 7
