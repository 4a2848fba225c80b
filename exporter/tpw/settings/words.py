"""Phrases of messages about settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean `x`?` where a known word is close, else ""."""
    from difflib import get_close_matches

    by_folded = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f"; did you mean `{by_folded[close[0]]}`?" if close else ""


def listed(words: Sequence[str]) -> str:
    """`a, b or c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def shortened(text: str, limit: int = 60) -> str:
    """A value as a message shows it."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
