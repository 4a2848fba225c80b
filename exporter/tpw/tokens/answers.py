"""JSON that a server answers with, from whoever that is."""

from __future__ import annotations

import json
from typing import Any


def json_of(body: bytes) -> Any:
    """What it says. Raises ValueError, also where it is deeper than anything that means something."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def writable(text: str) -> str:
    """A text that can be shown and kept: half of a surrogate pair, which JSON allows, is a question mark."""
    return text.encode("utf-8", "replace").decode()
