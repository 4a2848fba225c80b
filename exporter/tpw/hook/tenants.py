"""Who sent a request, by an allow-list of its headers. Nothing else of a request is kept.

A header with a key (``Authorization``, ``X-Api-Key``) names a tenant only by a file of names or as a keyed hash: the key is
neither published nor logged. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

OTHER = "other"
"""Tenant of values that a file of names does not have, and of tenants above the limit."""

KEY_HEADERS = frozenset(
    (
        *("authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"),
        *("ocp-apim-subscription-key", "x-litellm-api-key", "x-litellm-key", "x-auth-token", "x-amz-security-token"),
    )
)
"""Headers with keys."""

_VALUE_LENGTH = 128
_DIGITS = 12
"""Of a keyed hash."""


@dataclass
class TenantHeaders:
    """Which headers name the tenant of a request. The first one that it has counts.

    Args:
        headers: their names.
        names: value -> tenant. Other values are hashed where there is a secret, else they are :data:`OTHER`. A bearer token
            is a value without ``Bearer``.
        secret: key of the hash (HMAC-SHA-256).
        limit: tenants that are kept apart.

    Raises:
        ValueError: from the constructor, for a header with keys without ``names`` and ``secret``.
    """

    headers: Sequence[str]
    names: Mapping[str, str] | None = None
    secret: bytes = b""
    limit: int = 200
    _known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.headers = tuple(header.strip().lower() for header in self.headers if header.strip())
        for header in self.headers:
            if header in KEY_HEADERS and self.names is None and not self.secret:
                raise ValueError(f"{header} has keys: give names of tenants by key, or a secret for a keyed hash")

    def tenant(self, value_of: Callable[[str], str]) -> str:
        """The tenant of a request, by its headers; "" where none names one.

        Args:
            value_of: the value of a header by its name in lower case; "" where it is absent.
        """
        value = next((value for header in self.headers if (value := value_of(header).strip())), "")
        if not value:
            return ""
        tenant = self._name(value)
        if tenant not in self._known:
            if len(self._known) >= self.limit:
                return OTHER
            self._known.add(tenant)
        return tenant

    def _name(self, value: str) -> str:
        scheme, _, token = value.partition(" ")
        value = token.strip() if scheme.lower() == "bearer" and token else value
        if self.names is not None and value in self.names:
            return self.names[value]
        if self.secret:
            return hmac.new(self.secret, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:_DIGITS]
        if self.names is not None or len(value) > _VALUE_LENGTH:
            return OTHER
        return "".join(letter if letter.isprintable() else "?" for letter in value)


def tenant_headers(
    headers: Sequence[str], names_file: str | None = None, secret_file: str | None = None, limit: int = 200
) -> TenantHeaders:
    """With names from a file of lines ``name: value``, and a secret from a file with one line. Lines that begin with # are
    comments.

    Raises:
        OSError: a file cannot be read.
        ValueError: it has something else in it, or a header with keys has no file. No message has a value.
    """
    names = None
    if names_file is not None:
        names = {}
        for line in _lines(names_file):
            name, colon, value = (part.strip() for part in line.partition(": "))
            if not (name and colon and value):
                raise ValueError(f"{names_file}: a line is not `name: value`")
            names[value] = name
    secret = ""
    if secret_file is not None:
        lines = _lines(secret_file)
        if len(lines) != 1:
            raise ValueError(f"{secret_file}: expected a secret on one line")
        secret = lines[0]
    return TenantHeaders(headers, names, secret.encode(), limit)


def _lines(file: str) -> list[str]:
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not UTF-8 text") from None
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
