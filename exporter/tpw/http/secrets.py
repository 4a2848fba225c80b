"""Secrets from files: HTTP headers, a token, a user with a password.

One grammar for all of them: blank lines and lines that start with ``#`` are skipped, white space around a line is removed.
Every read opens the file anew, so a rotated secret needs no restart. Every failure is a SourceError with the reason
PERMISSION that names file and line and never quotes the content.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

from tpw.model import Reason, SourceError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name, RFC 9110 section 5.6.2."""


def read_headers(file: str | os.PathLike[str] | None) -> dict[str, str]:
    """Headers of a file with lines ``Name: value``, or with a single bare token, which is sent as a bearer token.

    No file means no headers. Raises SourceError (PERMISSION).
    """
    if not file:
        return {}
    lines = _lines(file)
    if len(lines) == 1 and _is_token(lines[0][1]):
        return {"Authorization": f"Bearer {lines[0][1]}"}
    headers: dict[str, str] = {}
    for number, line in lines:
        name, colon, value = line.partition(":")
        name, value = name.rstrip(), value.strip()
        if not colon or not _NAME.fullmatch(name) or not _is_sendable(value):
            raise SourceError(
                Reason.PERMISSION,
                f"{file}: line {number} is not `Name: value`",
                "Write one header on each line, or a single bearer token.",
            )
        headers[name] = value
    return headers


def read_token(file: str | os.PathLike[str], what: str) -> str:
    """The only line of a file. ``what`` names the secret in messages. Raises SourceError (PERMISSION)."""
    lines = _lines(file)
    if len(lines) != 1 or not _is_sendable(lines[0][1]):
        raise SourceError(
            Reason.PERMISSION, f"{file}: expected {what} on one line", "Write the bare value into the file."
        )
    return lines[0][1]


def bearer(file: str | os.PathLike[str]) -> dict[str, str]:
    """The header that sends a file's token. Raises SourceError (PERMISSION)."""
    return {"Authorization": f"Bearer {read_token(file, 'a token')}"}


def read_names(file: str | os.PathLike[str]) -> dict[str, str]:
    """Value -> name of a file with lines ``name: value``. Several values may have one name. Raises SourceError
    (PERMISSION)."""
    names: dict[str, str] = {}
    for number, line in _lines(file):
        name, colon, value = (part.strip() for part in line.partition(": "))
        if not (name and colon and value):
            raise SourceError(
                Reason.PERMISSION, f"{file}: line {number} is not `name: value`", "Write one name on each line."
            )
        names[value] = name
    return names


def read_credentials(file: str | os.PathLike[str]) -> tuple[str, str]:
    """User and password of a file with the line ``user:password``. Raises SourceError (PERMISSION)."""
    user, colon, password = read_token(file, "user:password").partition(":")
    if not colon:
        raise SourceError(Reason.PERMISSION, f"{file}: not of the form user:password")
    return user, password


def basic(user: str, password: str) -> dict[str, str]:
    """The header of HTTP basic authentication."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _lines(file: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """(line number, text) of the lines that hold something."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SourceError(
            Reason.PERMISSION, f"{file}: {reason}", "The user of the exporter must be able to read this file."
        ) from None
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _is_token(line: str) -> bool:
    return ":" not in line and not any(letter.isspace() for letter in line) and _is_sendable(line)


def _is_sendable(value: str) -> bool:
    """Whether a header can hold it: printable, and within the one encoding that headers have."""
    return value.isprintable() and all(letter <= "\xff" for letter in value)
