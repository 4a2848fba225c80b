"""A kept HTTP/1.1 connection to one server, bounded in time and in bytes.

It uses the standard library's parser of answers and not its client. The client's timeout applies to each system call, so a
server that sends one byte at a time would hold it for ever. urllib3 and httpx have the same limitation for the head of an
answer, and cost 0.6 and 2.3 MiB of memory. Not bounded: the lookup of a host name, because the system's resolver accepts no
deadline.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from tpw import __version__
from tpw.http.messages import MAX_BYTES, UNIX, Answer, address_of, socket_of, status_error
from tpw.http.response import Response
from tpw.http.secrets import basic, read_headers
from tpw.model import Reason, SourceError

if TYPE_CHECKING:
    import ssl

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "/?%:@!$&'()*+,;=~-._[]"
_PORTS = {"http": 80, "https": 443}
USER_AGENT = f"tpw-exporter/{__version__}"
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
_SERVICE_HINT = "Check the address, and that the service runs and accepts connections from this host."

Left = Callable[[], float]
"""Seconds until the deadline of an exchange. Raises TimeoutError after it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server is verified, and how the client identifies itself. Paths of PEM files; "" where not used."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    """Expected name of the server, where it is not the one in the address."""
    skip_verify: bool = False

    def context(self) -> ssl.SSLContext:
        """Raises SourceError (PERMISSION) when a file cannot be used."""
        import ssl  # maps OpenSSL, which plain http does without

        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except (OSError, ValueError) as error:
            hint = "Check ca_file, cert_file and key_file."
            raise SourceError(Reason.PERMISSION, f"TLS files cannot be used: {error}", hint) from error
        if self.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class Address:
    """An address of http, https or a Unix socket, taken apart."""

    server: tuple[str, str, int]
    """Scheme, host and port, as they are compared; ``unix``, the path of the socket and 0."""
    netloc: str
    """Host and port as they are written, without a user."""
    target: str
    """Path and query in ASCII, as they are requested."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ValueError for another scheme, no host, or a port that is not a number."""
        if url.startswith(UNIX):
            path, target = socket_of(url)
            return cls(("unix", path, 0), "localhost", quote(target, safe=_SAFE))
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"{address_of(url)!r} is not an http or https address")
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_SAFE)
        server = (parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])
        return cls(server, parts.netloc.rpartition("@")[2], target)

    @property
    def origin(self) -> str:
        """``scheme://host:port``, or ``unix:/path:``."""
        return f"{UNIX}{self.server[1]}:" if self.server[0] == "unix" else f"{self.server[0]}://{self.netloc}"


class RedirectError(SourceError):
    """A redirect to another server, which was not followed."""

    def __init__(self, where: str, url: str) -> None:
        hint = "Configure that address if it is right: secrets are not sent to another server."
        super().__init__(Reason.BROKEN, f"{where}: redirects to another address, {_shown(url)}", hint)
        self.url = url


def _shown(url: str) -> str:
    """An address from a response, for messages: without user, query and fragment, which may hold secrets. It need not be
    valid."""
    scheme, separator, rest = re.split(r"[?#]", url, maxsplit=1)[0][:200].rpartition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def open_tcp(host: str, port: int, left: Left) -> socket.socket:
    """A connection to the first address of a host that accepts one. Raises OSError."""
    failure = OSError("the host name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left())
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise failure


def open_unix(path: str, left: Left) -> socket.socket:
    """A connection to a Unix socket. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(left())
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class Client:
    """One server, connected to as needed and kept open between requests. For one thread at a time.

    Args:
        url: ``http://host:port/path?query``, or ``unix:/path``; what is requested where a request names no target.
        timeout_seconds: for a whole exchange: connecting, TLS, redirects, head and body.
        max_bytes: largest body, before and after decompression.
        headers_file: see :func:`tpw.http.secrets.read_headers`; read at every connect and after every 401 or 403.
        tls: for https.
        proxy: ``http://user:password@host:port`` of an HTTP proxy; "" for none.
        clock: monotonic seconds.
        open_socket: opens the connection below TLS.

    Raises:
        ValueError: when an address is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 2.0,
        max_bytes: int = MAX_BYTES,
        headers_file: str | PathLike[str] | None = None,
        tls: Tls | None = None,
        proxy: str = "",
        clock: Callable[[], float] = time.monotonic,
        open_socket: Callable[[str, int, Left], socket.socket] = open_tcp,
    ) -> None:
        self.address = Address.parse(url)
        self.origin = self.address.origin
        self.prefix = self.address.target.partition("?")[0].rstrip("/")
        self.connects = 0
        """Connections opened so far. Behind a new one there may be a new process."""
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._headers_file = headers_file
        self._tls = tls or Tls()
        self._proxy = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        self._via = (self.address if self._proxy is None else Address.parse(self._proxy.geturl())).server[1:]
        self._clock = clock
        self._open_socket = open_socket
        self._secrets: dict[str, str] = {}
        self._sock: socket.socket | None = None

    def request(
        self,
        target: str = "",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> Answer:
        """One exchange, whatever its status. A GET follows up to three redirects within the server.

        A kept connection that the server has closed meanwhile is opened again once.

        Args:
            target: path and query on the server; "" for those of the client's address.
            method: of HTTP.
            body: sent with the request.
            headers: replace the usual ones; those of the headers file replace them.
            timeout_seconds: replaces the client's.

        Raises:
            SourceError: TIMEOUT, UNREACHABLE, MALFORMED (not HTTP, cut off, too large), PERMISSION (files of secrets or of
                TLS), BROKEN (endless redirects), RedirectError.
        """
        timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        left = self._left(timeout)
        target = quote(target, safe=_SAFE) if target else self.address.target

        for _ in range(MAX_REDIRECTS + 1):
            was_open = self._sock is not None
            while True:
                try:
                    answer = self._exchange(method, target, body, headers or {}, left)
                    break
                except SourceError:
                    self.close()
                    raise
                except (http.client.HTTPException, OSError, UnicodeError) as error:
                    self.close()
                    if not was_open or not isinstance(error, ConnectionError | http.client.BadStatusLine):
                        raise _failure(self.where(target), error, timeout) from error
                    was_open = False
            location = answer.headers.get("location", "")
            if method != "GET" or answer.status not in _REDIRECTS or not location:
                return answer
            target = self._redirected(target, location)
        raise SourceError(Reason.BROKEN, f"{self.where(target)}: redirects in a circle")

    def lines(
        self,
        target: str,
        *,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Iterator[bytes]:
        """The lines of an answer that goes on, each when it comes, until the server ends it. On a new connection, which is
        closed afterwards.

        Args:
            target: path and query on the server.
            timeout_seconds: for the whole answer.
            headers: replace the usual ones.
            body: sent with a POST; None for a GET.

        Raises:
            StatusError: another status than 200.
            SourceError: as :meth:`request`; MALFORMED for a line larger than ``max_bytes``.
        """
        self.close()
        left = self._left(timeout_seconds)
        target = quote(target, safe=_SAFE)
        try:
            sock = self._connect(left)
            method, length = ("GET", {}) if body is None else ("POST", {"Content-Length": str(len(body))})
            parts = (_HEADERS, headers or {}, self._secrets, length)
            sent = {k.lower(): f"{k}: {v}" for part in parts for k, v in part.items()}
            with _sent(sock, method, target, self.address.netloc, [*sent.values()], body or b"", left) as response:
                if response.status != 200:
                    raise status_error(
                        self.where(target), Answer(response.status, response.read(4096), response.fields)
                    )
                while line := response.readline(self._max_bytes + 1):
                    if len(line) > self._max_bytes:
                        raise self._too_large(target)
                    yield line
        except (http.client.HTTPException, OSError, UnicodeError) as error:
            raise _failure(self.where(target), error, timeout_seconds) from error
        finally:
            self.close()

    def where(self, target: str = "") -> str:
        """The address of a target without its query, which may hold secrets: for messages."""
        return self.origin + (target or self.address.target).partition("?")[0]

    def close(self) -> None:
        """Drop the connection; the next request opens another. Never raises."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _left(self, seconds: float) -> Left:
        deadline = self._clock() + seconds

        def left() -> float:
            if (remaining := deadline - self._clock()) <= 0:
                raise TimeoutError
            return remaining

        return left

    def _exchange(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], left: Left) -> Answer:
        sock = self._sock or self._connect(left)
        sock.settimeout(left())
        length = {} if body is None else {"Content-Length": str(len(body))}
        sent = {k.lower(): f"{k}: {v}" for part in (_HEADERS, headers, self._secrets, length) for k, v in part.items()}
        began = self._clock()
        address = self.origin + target if self._proxy and self.address.server[0] == "http" else target
        response = _sent(sock, method, address, self.address.netloc, [*sent.values()], body or b"", left)
        answered = self._clock()
        is_framed = response.length is not None or bool(response.chunked)
        try:
            content = self._body(target, response)
        finally:
            response.close()
        if response.will_close or response.status in (401, 403):
            self.close()
        return Answer(response.status, content, response.fields, target, (began + answered) / 2, is_framed)

    def _connect(self, left: Left) -> socket.socket:
        self._secrets = read_headers(self._headers_file)
        proxy, context = self._proxy, self._tls.context() if self.address.server[0] == "https" else None
        login = {}
        if proxy is not None and proxy.username:
            [(name, value)] = basic(unquote(proxy.username), unquote(proxy.password or "")).items()
            login = {f"Proxy-{name}": value}
        if self.address.server[0] == "unix":
            sock = self._sock = open_unix(self.address.server[1], left)
        else:
            sock = self._sock = self._open_socket(*self._via, left)
        sock.settimeout(left())
        if proxy is not None and context is not None:
            server = self.address.netloc if urlsplit(self.origin).port else f"{self.address.netloc}:443"
            response = _sent(sock, "CONNECT", server, server, [f"{k}: {v}" for k, v in login.items()], b"", left)
            response.close()
            if response.status != 200:
                raise OSError(f"the proxy refuses the connection with HTTP {response.status}")
        elif proxy is not None:
            self._secrets.update(login)
        if context is not None:
            sock.settimeout(left())
            sock = self._sock = context.wrap_socket(
                sock, server_hostname=self._tls.server_name or self.address.server[1]
            )
        self.connects += 1
        return sock

    def _body(self, target: str, response: Response) -> bytes:
        most = self._max_bytes
        if response.length is not None and response.length > most:
            raise self._too_large(target)
        body = response.read(most + 1) if response.length is None else response.read()
        # Compression is not requested, but some servers and proxies compress all the same.
        if body and len(body) <= most and response.fields.get("content-encoding", "").lower() in ("gzip", "x-gzip"):
            unpacker = zlib.decompressobj(wbits=31)
            try:
                body = unpacker.decompress(body, most + 1)
            except zlib.error as error:
                raise SourceError(Reason.MALFORMED, f"{self.where(target)}: damaged gzip: {error}") from error
            if len(body) <= most and not unpacker.eof:
                raise SourceError(
                    Reason.MALFORMED, f"{self.where(target)}: the answer was cut off (gzip without its end)"
                )
        if len(body) > most:
            raise self._too_large(target)
        return body

    def _too_large(self, target: str) -> SourceError:
        return SourceError(
            Reason.MALFORMED,
            f"{self.where(target)}: the answer is larger than {self._max_bytes >> 10} KiB",
            "Check the address: no source needs an answer of this size.",
        )

    def _redirected(self, target: str, location: str) -> str:
        """The target that a redirect names. Raises RedirectError where it leaves the server."""
        # http.client decodes headers as Latin-1; servers that send more than ASCII send UTF-8.
        url = location.encode("latin-1", "replace").decode("utf-8", "replace")
        try:
            origin = "http://localhost" if self.address.server[0] == "unix" else self.origin
            url = urljoin(origin + target, url)
            address = Address.parse(url)
            if address.server == self.address.server or address.origin == origin != self.origin:
                return address.target
        except ValueError:  # not an address of http, or a port that is not a number
            pass
        raise RedirectError(self.where(target), url)


def _failure(where: str, error: Exception, timeout_seconds: float) -> SourceError:
    hint = _SERVICE_HINT
    if isinstance(error, TimeoutError):
        hint = "Check whether the server is overloaded, or raise the timeout."
        return SourceError(Reason.TIMEOUT, f"{where}: no complete answer within {timeout_seconds:.3g} s", hint)
    if isinstance(error, http.client.IncompleteRead):
        return SourceError(Reason.MALFORMED, f"{where}: the answer was cut off")
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return SourceError(Reason.MALFORMED, f"{where}: not an HTTP answer ({type(error).__name__})")
    text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    if type(error).__module__ == "ssl":
        text, hint = _tls_failure(error)
    elif isinstance(error, socket.gaierror | UnicodeError):  # the latter for a name that no host can have
        text, hint = "the host name is not known", "Check the address."
    elif isinstance(error, ConnectionRefusedError):
        text = "connection refused"
    return SourceError(Reason.UNREACHABLE, f"{where}: {text}", hint)


def _tls_failure(error: Exception) -> tuple[str, str]:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "Trust the authority that signed it: ca_file, or the certificates of the system."
        return f"its certificate is not trusted: {error.verify_message}", hint
    return f"TLS failed: {getattr(error, 'reason', error)}", "Is it http, not https?"


def _sent(
    sock: socket.socket, method: str, target: str, host: str, headers: list[str], body: bytes, left: Left
) -> Response:
    """Send a request and read the head of its answer."""
    netloc = host if host.isascii() else host.encode("idna").decode()
    lines = [f"{method} {target} HTTP/1.1", f"Host: {netloc}", *headers]
    if any("\n" in line or "\r" in line for line in lines):
        raise SourceError(Reason.MALFORMED, f"{host}: a header to send holds a line break")
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    response = Response(_TimedSocket(sock, left), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
    except BaseException:
        response.close()
        raise
    return response


class _TimedSocket(io.RawIOBase):
    """Reads a socket, each time with what is left of the deadline. Keeps the socket open until it is closed itself."""

    def __init__(self, sock: socket.socket, left: Left) -> None:
        self._sock, self._left = sock, left
        self._file = sock.makefile("rb", buffering=0)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What a response calls to read from its socket."""
        return io.BufferedReader(self, 65536)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._left())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
