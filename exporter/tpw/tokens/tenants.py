"""Reads who used what from a page with counters by tenant. Imported only where tenants are configured.

Any engine's or gateway's page can be a source: its row (:mod:`tpw.tokens.engines`) has the samples that count tokens, and
labels name who used them. No other label is kept: what they hold (keys, users, addresses) enters no book.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tpw.http.secrets import read_names, read_token
from tpw.model import KvTransfer, label_text
from tpw.tokens.dialects import Candidate, Dialect
from tpw.tokens.engines import ENGINES, LITELLM, TPW_HOOK
from tpw.tokens.page import Page, unescaped
from tpw.tokens.reading import ALONE, DialectReader, Head, PageReading, Slot

SECRET_LABELS = frozenset(
    (
        *("hashed_api_key", "api_key", "apikey", "key", "token", "authorization", "end_user", "user", "user_id"),
        *("user_email", "email", "client_ip", "user_agent", "session_id", "litellm_call_id"),
    )
)
"""Labels that hold keys or persons: they name a tenant only through a file of names, or as a keyed hash."""

OTHER = "other"
"""Tenant of values that a file of names does not have."""

_HEADS_KEPT = 32768
"""Sets of labels remembered."""

_UNSET = ("", "None")
"""Values of labels that are not set. LiteLLM writes Python's None."""

_DIGITS = 12
"""Of a keyed hash: two of a thousand tenants share one with a probability below 2e-9."""

_HOOK = replace(
    TPW_HOOK,
    output=(Candidate("tenant_output_tokens_total"),),
    input=(replace(TPW_HOOK.input[0], name="tenant_prompt_tokens_total"),),
    cached_input=(Candidate("tenant_cached_tokens_total"),),
    requests=(),
    running=(),
    work=(),
    uncounted=(),
)

_SOURCES: Mapping[str, tuple[Dialect, tuple[str, ...]]] = {
    LITELLM.name: (LITELLM, ("team_alias", "team")),
    TPW_HOOK.name: (_HOOK, ("tenant",)),
}
"""Rows and labels of sources that have labels of their own for tenants."""


def source_names() -> tuple[str, ...]:
    """Names of all sources."""
    return tuple(ENGINES)


def usual_labels(source: str) -> tuple[str, ...]:
    """The labels of a source that name tenants, where it has some of its own."""
    return _SOURCES[source][1] if source in _SOURCES else ()


@dataclass(frozen=True, slots=True)
class Naming:
    """Who a tenant is, by the labels of a series."""

    labels: tuple[str, ...]
    """The first of them that is set names the tenant."""
    names: Mapping[str, str] | None = None
    """Value -> tenant. Other values are hashed where there is a secret, else they are :data:`OTHER`."""
    secret: bytes = b""
    """Key of the hash; empty: values are names as they are."""

    def tenant(self, labels: Mapping[str, str]) -> str:
        """The tenant; "" where no label is set."""
        value = next((labels[label] for label in self.labels if labels.get(label, "") not in _UNSET), "")
        if not value:
            return ""
        if self.names is not None and value in self.names:
            return label_text(self.names[value])
        if self.secret:
            return hmac.new(self.secret, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:_DIGITS]
        return OTHER if self.names is not None else label_text(value)

    def mark(self, more: str) -> str:
        """A short text that changes with the names and with ``more``: series then have other names, and begin anew."""
        text = repr((self.labels, sorted((self.names or {}).items()), self.names is None, more))
        return hmac.new(self.secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:_DIGITS]


def naming(labels: tuple[str, ...], names_file: str | None, secret_file: str | None) -> Naming:
    """Reads the files. Raises SourceError (PERMISSION)."""
    names = None if names_file is None else read_names(names_file)
    secret = b"" if secret_file is None else read_token(secret_file, "the key of the hash").encode()
    return Naming(labels, names, secret)


def dialect_of(source: str, match: Mapping[str, str]) -> Dialect:
    """The row of a source, of series with these labels."""
    row = _SOURCES[source][0] if source in _SOURCES else ENGINES[source]
    pairs = tuple(match.items())

    def matching(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        return tuple(replace(one, match=(*one.match, *pairs)) for one in candidates)

    return replace(
        row,
        output=matching(row.output),
        input=matching(row.input),
        cached_input=matching(row.cached_input),
        prompt=matching(row.prompt),
        stored=matching(row.stored),
        external=(),
        requests=(),
        running=(),
        waiting=(),
        work=(),
        uncounted=(),
        live_output=(),
        progress=None,
        late=True,
        model_source=(),
        version_source=(),
    )


class TenantReader(DialectReader):
    """Reads a page by tenant: a series has the name of a tenant and a model in place of the model, and those with the same
    name are summed.

    Args:
        dialect: the source's row.
        named: makes the name of a tenant and a model.
        naming: who the tenants are; called for every page, so that files may change.
    """

    def __init__(self, dialect: Dialect, named: Callable[[str, str], str], naming: Callable[[], Naming]) -> None:
        super().__init__(dialect)
        self._named = named
        self._naming_of = naming
        self.naming = Naming(())
        """By which the last page was read."""
        self._heads: dict[tuple[object, ...], Head | None] = {}
        self._wanted_labels = re.compile(b"")

    def read(self, page: Page, transfer: KvTransfer = ALONE) -> PageReading:
        """The values of the page. Raises SourceError for files of names that cannot be read."""
        fresh = self._naming_of()
        if fresh != self.naming:
            self.naming = fresh
            self._heads.clear()
            self._wanted_labels = self._pattern(fresh)
        return super().read(page, transfer)

    def _pattern(self, naming: Naming) -> re.Pattern[bytes]:
        """Finds the labels that matter. A page may have tens of thousands of series, and reading all their labels takes ten
        times as long. A quote within a value is escaped, so no value is taken for a label."""
        names = {*naming.labels, *self.dialect.model_labels}
        for role in self._roles:
            for candidate in self.dialect.candidates(role):
                names.update(label for label, _ in (*candidate.match, *candidate.unless))
                names.update(label for label, _, _ in candidate.tiers)
        words = b"|".join(re.escape(name.encode()) for name in sorted(names))
        return re.compile(rb'[{,\s](%b)\s*=\s*"((?:[^"\\]|\\.)*)"' % words)

    def _head_of(self, slot: Slot, raw: bytes) -> Head | None:
        found = self._wanted_labels.findall(raw)
        key = (slot.sample, *(part for pair in found for part in pair))
        if key not in self._heads:
            if len(self._heads) >= _HEADS_KEPT:
                self._heads.clear()
            labels = {name.decode(): unescaped(value.decode("utf-8", "replace")) for name, value in found}
            self._heads[key] = self._head_by(slot, labels)
        return self._heads[key]

    def _parsed(self, slot: Slot, labels: Mapping[str, str]) -> Head:
        model = next((labels[label] for label in self.dialect.model_labels if labels.get(label, "") not in _UNSET), "")
        name = self._named(self.naming.tenant(labels), label_text(model))
        return Head(f"{slot.sample}{{{name}}}", name)

    def _rows(self, page: Page, slot: Slot) -> list[tuple[Head, float]]:
        sums: dict[str, tuple[Head, float]] = {}
        for head, value in self._values(page, slot):
            before = sums.get(head.key)
            sums[head.key] = (head, value if before is None else before[1] + value)
        return list(sums.values())
