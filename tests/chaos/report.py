"""Tables of runs in docs/reliability.md, between marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def write(name: str, lines: Sequence[str]) -> None:
    """Replace what stands between the marks of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = PAGE.read_text(encoding="utf-8")
    start, until = text.index(begin) + len(begin), text.index(end)
    PAGE.write_text(text[:start] + "\n" + "\n".join(lines) + "\n" + text[until:], encoding="utf-8")
