"""Expected texts in files; ``UPDATE_GOLDEN=1`` rewrites them."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "golden"


def golden(name: str, text: str) -> None:
    """Assert that a text is that of ``tests/golden/NAME``."""
    path = DIRECTORY / name
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
