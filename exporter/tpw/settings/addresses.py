"""Secrets in addresses. An address appears in the log, in the status and on pages: secrets belong into files."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

_SECRET_KEYS = frozenset(
    {"auth", "authorization", "credential", "credentials", "jwt", "key", "passwd", "passphrase", "pass", "pwd", "sig"}
)
_SECRET_ENDINGS = ("apikey", "accesskey", "subscriptionkey", "password", "secret", "signature", "token")


def secret_in(address: str) -> str:
    """What of an address is a secret, in words that do not quote it; "" for an address without one."""
    try:
        parts = urlsplit(address)
        query, userinfo = parts.query, "@" in parts.netloc
    except ValueError:  # such as an invalid port
        query, userinfo = address.partition("?")[2], "@" in address.partition("?")[0]
    if userinfo:
        return "a user or a password"
    for key, value in parse_qsl(query, keep_blank_values=True):
        plain = re.sub(r"[^a-z0-9]", "", key.lower())
        if value and (plain in _SECRET_KEYS or plain.endswith(_SECRET_ENDINGS)):
            return f"a secret (`{key[:40]}`)"
    return ""


def check_no_secret(address: str) -> None:
    """Raises ValueError for an address with a secret; the message has the way to do it and not the secret."""
    secret = secret_in(address)
    if secret:
        raise ValueError(
            f"an address must not contain {secret}: put it into a file, such as headers_file, which is sent as headers"
        )
