from __future__ import annotations

from pathlib import Path

from tpw.exposition.catalogue import CATALOGUE
from tpw.exposition.reference import markdown, sections

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_reference_in_the_documentation_is_current():
    """Rewrite it with: python -m tpw.exposition.reference docs/metrics.md"""
    assert DOCUMENT.read_text(encoding="utf-8") == markdown()


def test_every_metric_stands_in_one_section():
    assert [metric for _, rows in sections() for metric in rows] == list(CATALOGUE)
    assert all(title for title, _ in sections())
