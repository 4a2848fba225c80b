"""Asking somebody else's meter over HTTP: one connection kept open, bounded in time and in bytes.

Used by the meters that read a page or an API (dcgm, external, redfish); the others never import it.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tpw.model import Reason, SourceError
from tpw.power import Clock

MOST_BYTES = 8 << 20

_STATUS_REASONS = {
    401: Reason.UNAUTHORIZED,
    403: Reason.UNAUTHORIZED,
    404: Reason.ABSENT,
    501: Reason.DISABLED,
    503: Reason.LOADING,
}
_HINTS = {
    Reason.UNAUTHORIZED: "Check the credentials (headers_file or credentials_file) and what that account may read.",
    Reason.ABSENT: "Check the address and its path.",
    Reason.UNREACHABLE: "Check the address, and that the service runs and accepts connections from here.",
    Reason.TIMEOUT: "The service answers too slowly: raise the meter's timeout, or read it less often.",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, what: str) -> Any:
        """The body as JSON. Raises SourceError (MALFORMED)."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise SourceError(Reason.MALFORMED, f"{what}: not JSON: {error}") from None


class Site:
    """One HTTP server.

    Args:
        url: its base address; the path of it is put before every path asked for.
        timeout_seconds: for a whole exchange.
        headers_file: header lines (``Name: value``), or one line that is a bearer token, sent with every request. Read
            anew for every connection, so a rotated token is taken up.
        ca_file: certificates to trust; "" for the system's.
        insecure_skip_verify: accept any certificate (a BMC's self-signed one).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 2.0,
        headers_file: str = "",
        ca_file: str = "",
        insecure_skip_verify: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http or https address")
        self.url = url
        self._https = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._query = parts.query
        self._timeout = timeout_seconds
        self._headers_file = headers_file
        self._ca_file = ca_file
        self._insecure = insecure_skip_verify
        self._clock = clock
        self._connection: http.client.HTTPConnection | None = None
        self._fixed: dict[str, str] = {}

    def get(self, path: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """GET. Raises SourceError for whatever is not a 200."""
        answer = self.ask("GET", path, headers=headers)
        if answer.status != 200:
            raise self.refusal(answer.status, path)
        return answer

    def ask(
        self, method: str, path: str = "", *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One exchange, whatever its status. Raises SourceError where there was none."""
        for attempt in (1, 2):
            fresh = self._connection is None
            try:
                return self._exchange(method, path, body, headers or {})
            except TimeoutError:
                self.close()
                raise self._failure(Reason.TIMEOUT, f"no answer within {self._timeout:g} s") from None
            except (http.client.HTTPException, OSError) as error:
                self.close()
                # A kept connection that the server has closed meanwhile is no fault: ask once more on a new one.
                stale = not fresh and isinstance(error, ConnectionError | http.client.BadStatusLine)
                if not stale or attempt == 2:
                    raise self._broken(error) from None
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def refusal(self, status: int, path: str) -> SourceError:
        """What a status that is no success means."""
        reason = _STATUS_REASONS.get(status, Reason.BROKEN)
        return SourceError(reason, f"{self._where(path)}: HTTP {status}", _HINTS.get(reason, ""))

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        deadline = self._clock() + self._timeout
        connection = self._connection or self._connect()
        target = (self._prefix + path) or "/"
        if self._query and not path:
            target = f"{target}?{self._query}"
        if connection.sock is not None:
            connection.sock.settimeout(self._timeout)
        connection.request(method, target, body=body, headers={"Accept": "*/*", **self._fixed, **headers})
        response = connection.getresponse()
        chunks: list[bytes] = []
        size = 0
        while chunk := response.read1(65536):
            chunks.append(chunk)
            size += len(chunk)
            if size > MOST_BYTES:
                self.close()
                raise self._failure(Reason.MALFORMED, f"more than {MOST_BYTES >> 20} MiB")
            if self._clock() > deadline:
                raise TimeoutError
        response.close()  # read to its end, which read1 alone does not notice: the connection is free again
        if response.will_close:
            self.close()
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, b"".join(chunks))

    def _connect(self) -> http.client.HTTPConnection:
        self._fixed = read_headers(self._headers_file) if self._headers_file else {}
        if self._https:
            context = ssl.create_default_context(cafile=self._ca_file or None)
            if self._insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return self._connection

    def _broken(self, error: Exception) -> SourceError:
        if isinstance(error, ssl.SSLError):
            hint = "Give the meter the certificate (ca_file), or insecure_skip_verify for a self-signed one."
            return SourceError(Reason.UNREACHABLE, f"{self.url}: TLS failed: {error}", hint)
        if isinstance(error, http.client.HTTPException):
            return self._failure(Reason.MALFORMED, f"not an HTTP answer ({type(error).__name__})")
        return self._failure(Reason.UNREACHABLE, str(error) or type(error).__name__)

    def _failure(self, reason: Reason, what: str) -> SourceError:
        return SourceError(reason, f"{self.url}: {what}", _HINTS.get(reason, ""))

    def _where(self, path: str) -> str:
        scheme = "https" if self._https else "http"
        port = f":{self._port}" if self._port else ""
        return f"{scheme}://{self._host}{port}{self._prefix}{path}"


def read_secret(path: str) -> str:
    """The text of a file that holds a secret, without the end of its line. Raises SourceError (PERMISSION)."""
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SourceError(
            Reason.PERMISSION, f"{path}: {error.strerror}", "The exporter must be able to read this file."
        ) from None


def read_headers(path: str) -> dict[str, str]:
    """Headers of a file: lines ``Name: value``, or one line that is a bearer token. Raises SourceError."""
    headers: dict[str, str] = {}
    for line in read_secret(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
        elif line.strip():
            headers["Authorization"] = f"Bearer {line.strip()}"
    return headers


def read_credentials(path: str) -> tuple[str, str]:
    """User and password of a file with the line ``user:password``. Raises SourceError."""
    user, colon, password = read_secret(path).partition(":")
    if not colon:
        raise SourceError(Reason.PERMISSION, f"{path}: not of the form user:password")
    return user, password


def basic_authorization(user: str, password: str) -> str:
    """Value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
