"""The model's name and the engine's version, from JSON documents beside the metrics page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tpw.http.client import Client
from tpw.http.messages import json_of
from tpw.model import ProcessIdentity, SourceError, label_text
from tpw.tokens.dialects import Dialect, Lookup

RETRY_SECONDS = 60.0
TIMEOUT_SECONDS = 1.0
"""Tuning: a document beside the page must not delay the reading of the page much."""
_MAX_BYTES = 1 << 20


class EngineFacts:
    """Looks up model and version once per process behind the page, and again if the connection was lost.

    A failed lookup is repeated after a minute and changes nothing else: tokens are counted without a name.

    Args:
        client: the connection of the page.
        clock: monotonic seconds.
        configured_model: replaces the lookup of the model.
    """

    def __init__(self, client: Client, clock: Callable[[], float], configured_model: str) -> None:
        self._client = client
        self._clock = clock
        self._configured_model = configured_model
        self._epoch: tuple[ProcessIdentity | None, int] = (None, -1)
        self._at_seconds: float | None = None
        self._model = ""
        self.version = ""

    def model(self) -> str:
        """The model's name; "" if it is unknown."""
        return self._configured_model or self._model

    def update(self, dialect: Dialect, process: ProcessIdentity | None, deadline_seconds: float) -> bool:
        """Look up what is missing. Returns whether the model's name changed. Never raises."""
        now = self._clock()
        needs_model = not self._configured_model and bool(dialect.model_source)
        is_complete = (process, self._client.connects) == self._epoch and bool(self._model or not needs_model)
        if is_complete or (self._at_seconds is not None and now - self._at_seconds < RETRY_SECONDS):
            return False
        documents: dict[str, Any] = {}
        model = self._first(dialect.model_source, documents, deadline_seconds) if needs_model else ""
        version = self._first(dialect.version_source, documents, deadline_seconds)
        # The lookups themselves may have reconnected.
        self._epoch = (process, self._client.connects)
        self._at_seconds = now
        before = self._model
        self._model = label_text(_base_name(model)) or before
        self.version = label_text(version) or self.version
        return self._model != before

    def _first(self, lookups: tuple[Lookup, ...], documents: dict[str, Any], deadline_seconds: float) -> str:
        for lookup in lookups:
            if lookup.path not in documents:
                documents[lookup.path] = self._document(lookup.path, deadline_seconds)
            value: Any = documents[lookup.path]
            try:
                for step in lookup.pointer:
                    value = value[step]
            except (KeyError, IndexError, TypeError):
                continue
            if isinstance(value, str) and value:
                return value
        return ""

    def _document(self, path: str, deadline_seconds: float) -> Any:
        left = min(deadline_seconds - self._clock(), TIMEOUT_SECONDS)
        if left <= 0:
            return None
        try:
            answer = self._client.request(path, headers={"Accept": "application/json"}, timeout_seconds=left)
            if answer.status != 200 or len(answer.body) > _MAX_BYTES:
                return None
            return json_of(answer.body, path)
        except SourceError:
            return None


def printable(text: str) -> str:
    """The text with a question mark for half a surrogate pair, which JSON allows and UTF-8 does not."""
    return text.encode("utf-8", "replace").decode()


def _base_name(model: str) -> str:
    """The file name, if llama.cpp reports the path of the model file as its name."""
    return model.rpartition("/")[2] if model.endswith(".gguf") else model
