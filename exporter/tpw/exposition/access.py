"""Access control from a web configuration file (:mod:`tpw.exposition.web_config`).

The file, and the files it names, are checked for changes at most once a second. A valid change applies to the next
request; an invalid one is logged and the old configuration stays in force.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import structlog

from tpw.exposition.admission import PROBES
from tpw.exposition.http1 import Request, Response
from tpw.exposition.serving import Gate
from tpw.exposition.web_config import Bcrypt, WebConfig, WebConfigError, bcrypt, load

_log = structlog.get_logger(__name__)

_CHECK_SECONDS = 1.0
_MAX_CACHED_PASSWORDS = 256
"""Of each kind, valid and wrong. Tuning: 64 bytes each; a misconfigured client repeats one password, not hundreds."""
_MAX_WAITING_PASSWORDS = 4
"""bcrypt takes 50 to 300 ms at the usual costs, so that the last in the queue waits about a second."""


class Access(Gate):
    """Decides which connections and requests are allowed, by a web configuration file that is reloaded when it changes.

    Args:
        path: the file.
        clock: monotonic.

    Raises:
        WebConfigError: the file is not valid.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._config, self._signature = _load(path)
        self._checked_at = clock()
        self._lock = threading.Lock()
        self._passwords = _Passwords()
        self._tokens = float(self._config.rate_burst)
        self._refilled_at = clock()

    def generation(self) -> WebConfig:
        """The configuration in force."""
        now = self._clock()
        if now - self._checked_at >= _CHECK_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._checked_at = now
                self._reload_if_changed()
            finally:
                self._lock.release()
        return self._config

    def _reload_if_changed(self) -> None:
        signature = _signature(self._config.files)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._config, self._signature = _load(self._path)
        except WebConfigError as error:
            _log.error("web_config_rejected", file=str(self._path), problems=error.problems)
            return
        _log.info("web_config_reloaded", file=str(self._path))

    def context(self) -> ssl.SSLContext | None:
        """TLS for a new connection."""
        return self._config.context

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers for every response."""
        return self._config.headers

    def admit(self, peer: ssl.SSLSocket) -> bool:
        """Whether a subject alternative name of the client certificate is allowed. True where no list is configured."""
        allowed = self._config.allowed_sans
        if allowed is None:
            return True
        certificate = peer.getpeercert() or {}
        names = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
        return any(name in allowed for _, name in names)

    def refuse(self, request: Request) -> Response | None:
        """429 above the rate limit, 401 without a valid user and password, 503 where too many passwords wait to be checked,
        None for an allowed request. Probes need no password, since a kubelet has no safe place for one, and are exempt from
        the rate limit: otherwise a client that floods the port could have the daemon restarted."""
        if request.path in PROBES and request.method in ("GET", "HEAD"):
            return None
        config = self._config
        if config.rate_interval_seconds and not self._within_rate(config):
            return Response(b"too many requests\n", 429, headers=(("Retry-After", "1"),))
        if not config.users:
            return None
        try:
            is_known = self._authenticates(config.users, request.headers.get("authorization", ""))
        except _BusyError:
            return Response(b"too many passwords are being checked\n", 503, headers=(("Retry-After", "1"),))
        if is_known:
            return None
        return Response(b"unauthorized\n", 401, headers=(("WWW-Authenticate", 'Basic realm="tpw-exporter"'),))

    def _within_rate(self, config: WebConfig) -> bool:
        """Remove one token from the bucket. False if it is empty."""
        with self._lock:
            now = self._clock()
            gained = (now - self._refilled_at) / config.rate_interval_seconds
            self._tokens = min(float(config.rate_burst), self._tokens + gained)
            self._refilled_at = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def _authenticates(self, users: Mapping[str, bytes], authorization: str) -> bool:
        """Whether user and password are valid. Raises _BusyError."""
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        if not colon:
            return False
        # An unknown user is checked against another user's hash, so that the response time does not reveal who exists.
        hashed = users.get(user)
        matches = self._passwords.check(password.encode(), hashed or next(iter(users.values())))
        return matches and hashed is not None


class _BusyError(Exception):
    """Too many passwords are being checked."""


class _Passwords:
    """Checks passwords one at a time, and caches the results.

    bcrypt is slow by design. The cache (keyed digests, nothing that reveals a password) keeps that cost out of a scrape,
    and out of a client that repeats a wrong password; the lock keeps wrong passwords from using more than one core, the
    bounded queue from using every connection. Wrong passwords never displace valid ones.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._results: dict[bool, dict[bytes, None]] = {True: {}, False: {}}
        self._checking = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MAX_WAITING_PASSWORDS)

    def check(self, password: bytes, hashed: bytes) -> bool:
        """Whether a password matches its hash. Raises _BusyError."""
        digest = hashlib.blake2b(hashed + b"\0" + password, key=self._key).digest()
        known = self._known(digest)
        if known is not None:
            return known
        package = bcrypt()
        if package is None:
            return False
        if not self._waiting.acquire(blocking=False):
            raise _BusyError
        try:
            with self._checking:
                known = self._known(digest)  # the same one may have been ahead in the queue
                return self._keep(digest, _matches(package, password, hashed)) if known is None else known
        finally:
            self._waiting.release()

    def _known(self, digest: bytes) -> bool | None:
        return next((result for result, digests in self._results.items() if digest in digests), None)

    def _keep(self, digest: bytes, result: bool) -> bool:  # noqa: FBT001 - the result itself
        """Called with the lock held."""
        digests = self._results[result]
        if len(digests) >= _MAX_CACHED_PASSWORDS:
            del digests[next(iter(digests))]  # the oldest
        digests[digest] = None
        return result


def _matches(package: Bcrypt, password: bytes, hashed: bytes) -> bool:
    try:
        # bcrypt only uses the first 72 bytes; newer packages refuse longer passwords.
        return package.checkpw(password[:72], hashed)
    except ValueError:
        return False


def _load(path: Path) -> tuple[WebConfig, tuple[object, ...]]:
    """The configuration, and a signature from before it was read: later changes are then always detected."""
    signature = _signature(load(path).files)
    return load(path), signature


def _signature(files: tuple[Path, ...]) -> tuple[object, ...]:
    """Differs when one of the files has changed."""
    result: list[object] = []
    for path in files:
        try:
            stat = path.stat()
            result.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError:
            result.append(None)
    return tuple(result)
