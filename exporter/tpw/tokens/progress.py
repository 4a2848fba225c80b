"""Tokens that are being generated, from an engine that counts them only when a request ends.

The engine's counter C stands still while a request runs, and takes over all its tokens when it ends. The engine also tells
how far every running request is. Their sum with C moves at every look, and at the end of a request it is C again, so
nothing is reconciled by subtracting: C alone stays the truth, and what is in flight is added to it only for as long as it
is in flight. The counter is read first, the requests after it: one that ends in between is missing from the sum for one
look, and never in it twice.

Whether the counter does take over what was seen in flight is checked at every request that ends. Where it does not (a build
that forgets the tokens of clients that went away), requests in flight are not used for that server any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpw.tokens.answers import json_of
from tpw.tokens.dialects import Progress

Requests = Mapping[tuple[Any, ...], float]
"""Output tokens so far of each request in work, by its identity."""


def requests_in(body: bytes, progress: Progress) -> Requests | None:
    """The requests in work that an answer tells of; None where the answer is not of the form that the row says."""
    try:
        entries = json_of(body)
    except ValueError:
        return None
    if not isinstance(entries, list):
        return None
    found: dict[tuple[Any, ...], float] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            return None
        if entry.get(progress.busy) is not True:
            continue
        tokens = next((value for value in (_at(entry, path) for path in progress.tokens) if value is not None), None)
        if tokens is None:
            return None
        found[tuple(entry.get(key) for key in progress.identity)] = tokens
    return found


def _at(entry: Any, path: tuple[str | int, ...]) -> float | None:
    value = entry
    try:
        for step in path:
            value = value[step]
    except (KeyError, IndexError, TypeError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    return float(value)


class Takeover:
    """Holds the engine to its rule: what was in flight when a request ended is in the counter afterwards.

    Told every look at the counter, with the requests in work where they were asked for.
    """

    __slots__ = ("_before", "_from", "_owed", "_requests")

    def __init__(self) -> None:
        self._before: float | None = None
        self._requests: Requests = {}
        self._owed = 0.0
        self._from = 0.0

    def holds(self, counter: float, requests: Requests) -> bool:
        """Whether the rule still holds at this look. A counter that fell is another process's: it owes nothing."""
        if self._before is None or counter < self._before:
            self._before, self._requests, self._owed = counter, requests, 0.0
            return True
        kept = True
        if self._owed:
            # Owed since an earlier look: the counter of this one was read after those requests had ended.
            kept = counter - self._from >= self._owed
            self._owed = 0.0
        gone = sum(tokens for request, tokens in self._requests.items() if request not in requests)
        if gone and counter - self._before < gone:
            self._owed, self._from = gone, self._before
        self._before, self._requests = counter, requests
        return kept
