"""GET over a persistent HTTP/1.1 connection, bounded in time and in bytes.

The standard library's client with three things added: one deadline for a whole exchange (its own timeout is per system
call, so a server that drips bytes could hold it for ever), a bound on the body before and after decompression, and one
silent reconnect when a kept connection turns out to be stale. Host names are looked up by the system's resolver, which
knows no deadline.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tpw import __version__
from tpw.model import Reason, SourceError

_FAILURES = (http.client.HTTPException, OSError, UnicodeError)


@dataclass(frozen=True, slots=True)
class Tls:
    """How an https server is believed, and how we show who we are. Paths of PEM files; "" where not used."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    """Expected name, where it is not the one in the address."""
    skip_verify: bool = False

    def context(self) -> ssl.SSLContext:
        """Raises SourceError when a file cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except (OSError, ValueError) as error:
            raise SourceError(
                Reason.PERMISSION, f"TLS files cannot be used: {error}", "check ca, cert and key"
            ) from error
        if self.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer."""

    status: int
    content_type: str
    """Lower case, without parameters."""
    body: bytes
    location: str
    at_seconds: float
    """The middle between asking and the answer's first line: when the server looked at its counters."""
    is_whole: bool = True
    """False where only the end of the connection tells the end of the body: it may have been cut off."""


class Connection:
    """One server, kept open between requests. One thread at a time.

    Args:
        origin: ``http://host:port``; a path on it is ignored.
        clock: monotonic seconds, for deadlines and for ``Answer.at_seconds``.
        max_bytes: most a body may have, decompressed.
        headers_file: lines ``Name: value``, or one bare token, sent as a bearer; read at every connect, so a rotated
            secret is taken without a restart.
    """

    def __init__(
        self,
        origin: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int = 8 << 20,
        headers_file: str | Path | None = None,
        tls: Tls | None = None,
    ) -> None:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http or https address: {origin!r}")
        self.origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.opened = 0
        """How many times it was connected. Another number means perhaps another process."""
        self._scheme, self._host = parts.scheme, parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._clock = clock
        self._max_bytes = max_bytes
        self._headers_file = headers_file
        self._tls = tls
        self._headers: dict[str, str] = {}
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, *, accept: str, timeout_seconds: float) -> Answer:
        """Ask once.

        Raises:
            SourceError: TIMEOUT, UNREACHABLE, MALFORMED (not HTTP, cut off, too large), PERMISSION (the headers file).
        """
        deadline = self._clock() + timeout_seconds
        kept = self._connection is not None
        try:
            return self._exchange(path, accept, deadline)
        except SourceError:
            self.close()
            raise
        except _FAILURES as error:
            self.close()
            if not (kept and isinstance(error, ConnectionError | http.client.BadStatusLine)):
                raise self._failure(path, error, timeout_seconds) from error
        try:
            return self._exchange(path, accept, deadline)
        except SourceError:
            self.close()
            raise
        except _FAILURES as error:
            self.close()
            raise self._failure(path, error, timeout_seconds) from error

    def close(self) -> None:
        """Drop the connection; the next request opens another. Never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _exchange(self, path: str, accept: str, deadline: float) -> Answer:
        connection = self._connection or self._connect(deadline)
        if connection.sock is not None:
            connection.sock.settimeout(self._left(deadline))
        connection.response_class = _bounded(lambda: self._left(deadline))  # type: ignore[assignment]
        asked = self._clock()
        connection.request("GET", path, headers={"Accept": accept, "Accept-Encoding": "identity", **self._headers})
        response = connection.getresponse()
        answered = self._clock()
        is_framed = response.length is not None or bool(response.chunked)
        try:
            body = self._body(path, response)
        finally:
            response.close()
        if response.will_close:
            self.close()
        return Answer(
            response.status,
            (response.getheader("Content-Type") or "").partition(";")[0].strip().lower(),
            body,
            (response.getheader("Location") or "").encode("latin-1", "replace").decode("utf-8", "replace"),
            (asked + answered) / 2,
            is_framed,
        )

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        self._headers = read_headers(self._headers_file)
        timeout = self._left(deadline)
        connection: http.client.HTTPConnection
        if self._scheme == "https":
            tls = self._tls or Tls()
            connection = _NamedHttps(
                self._host, self._port, timeout=timeout, context=tls.context(), server_name=tls.server_name
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.connect()
        self.opened += 1
        self._connection = connection
        return connection

    def _body(self, path: str, response: http.client.HTTPResponse) -> bytes:
        if response.length is not None and response.length > self._max_bytes:
            raise self._too_large(path)
        body = response.read(self._max_bytes + 1) if response.length is None else response.read()
        if len(body) > self._max_bytes:
            raise self._too_large(path)
        if (response.getheader("Content-Encoding") or "identity").lower() == "gzip":
            # Not asked for; some servers and proxies compress all the same.
            try:
                unpacker = zlib.decompressobj(wbits=31)
                body = unpacker.decompress(body, self._max_bytes + 1)
            except zlib.error as error:
                raise SourceError(
                    Reason.MALFORMED, f"{self.origin}{path}: gzip that cannot be read: {error}"
                ) from error
            if len(body) > self._max_bytes:
                raise self._too_large(path)
            if not unpacker.eof:
                raise SourceError(
                    Reason.MALFORMED, f"{self.origin}{path}: the answer was cut off (gzip without its end)"
                )
        return body

    def _too_large(self, path: str) -> SourceError:
        return SourceError(
            Reason.MALFORMED,
            f"{self.origin}{path}: the answer is larger than {self._max_bytes >> 10} KiB",
            "this is not an inference server's metrics page, or one with far too many series",
        )

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock()
        if left <= 0:
            raise TimeoutError("deadline exceeded")
        return left

    def _failure(self, path: str, error: Exception, timeout_seconds: float) -> SourceError:
        where = f"{self.origin}{path}"
        if isinstance(error, TimeoutError):
            return SourceError(
                Reason.TIMEOUT, f"{where}: no whole answer within {timeout_seconds:.2g} s", "is the server overloaded?"
            )
        if isinstance(error, ssl.SSLCertVerificationError):
            return SourceError(
                Reason.UNREACHABLE,
                f"{where}: its certificate is not believed: {error.verify_message}",
                "give the authority that signed it as the CA file",
            )
        if isinstance(error, ssl.SSLError):
            return SourceError(Reason.UNREACHABLE, f"{where}: TLS failed: {error.reason}", "is it http, not https?")
        if isinstance(error, socket.gaierror | UnicodeError):  # the latter for a name that cannot even be looked up
            return SourceError(Reason.UNREACHABLE, f"{where}: the host name is not known", "check the address")
        if isinstance(error, ConnectionRefusedError):
            return SourceError(Reason.UNREACHABLE, f"{where}: connection refused", "is the server running?")
        if isinstance(error, OSError | http.client.RemoteDisconnected):
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return SourceError(Reason.UNREACHABLE, f"{where}: {said or type(error).__name__}", "is the server running?")
        if isinstance(error, http.client.IncompleteRead):
            return SourceError(Reason.MALFORMED, f"{where}: the answer was cut off")
        return SourceError(Reason.MALFORMED, f"{where}: not an HTTP answer ({type(error).__name__}: {error})")


def read_headers(file: str | Path | None) -> dict[str, str]:
    """Headers for every request, from a file of lines ``Name: value``; one bare token becomes a bearer.

    Raises:
        SourceError: PERMISSION when the file cannot be read or used; the secret is never part of the message.
    """
    headers = {"User-Agent": f"tpw-exporter/{__version__}"}
    if file is None:
        return headers
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SourceError(
            Reason.PERMISSION, f"headers file {file}: {said}", "the exporter's user must be able to read it"
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) == 1 and ":" not in lines[0] and " " not in lines[0]:
        lines = [f"Authorization: Bearer {lines[0]}"]
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or " " in name.strip() or not (name + value).isprintable():
            raise SourceError(Reason.PERMISSION, f"headers file {file}: entry {number} is not `Name: value`")
        headers[name.strip()] = value.strip()
    return headers


class _NamedHttps(http.client.HTTPSConnection):
    """HTTPS that may expect another name than the address has."""

    def __init__(self, *args: Any, context: ssl.SSLContext, server_name: str, **kwargs: Any) -> None:
        super().__init__(*args, context=context, **kwargs)
        self._tls_context = context
        self._server_name = server_name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._server_name or self.host)


def _bounded(left: Callable[[], float]) -> Callable[..., http.client.HTTPResponse]:
    """A response class whose every read of the socket may last only what is left of the deadline."""

    def response(sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Facade(sock, left), *args, **kwargs)  # type: ignore[arg-type]

    return response


class _Facade:
    """The one method of a socket that a response uses."""

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Timed(self._sock, self._left), 65536)


class _Timed(io.RawIOBase):
    """Reads a socket, each time with what is left of the deadline. Holds the socket open as any of its files does."""

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._left())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
