"""Who may ask: the gate of a web configuration file (:mod:`tpw.exposition.web_config`) that is looked after while the
daemon runs.

The file, and the files it names, are looked at again at most once a second; a change takes effect for the next request,
and a bad change changes nothing and is logged.
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

from tpw.exposition.http1 import Request, Response
from tpw.exposition.web_config import WebConfig, WebConfigError, bcrypt, load

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_REMEMBERED_PASSWORDS = 100

PROBES = frozenset({"/-/healthy", "/-/ready"})
"""What whoever restarts a daemon asks. They tell nothing of what is measured, and a kubelet has no safe place for a
password: so anybody may ask them. Nor does the rate bound them, or whoever floods the port could have the daemon killed."""


class Access:
    """The gate of a web configuration file that is looked after while the daemon runs.

    Args:
        path: the file.
        clock: monotonic.

    Raises:
        WebConfigError: when the file cannot be used at the start.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._config, self._signature = _settled(path)
        self._looked_at = clock()
        self._lock = threading.Lock()
        self._checking = threading.Lock()
        self._passwords = _Passwords()
        self._tokens = float(self._config.rate_burst)
        self._refilled_at = clock()

    def generation(self) -> WebConfig:
        """The configuration in force."""
        now = self._clock()
        if now - self._looked_at >= _LOOK_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._looked_at = now
                self._look()
            finally:
                self._lock.release()
        return self._config

    def _look(self) -> None:
        signature = _signature(self._config.files)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._config, self._signature = _settled(self._path)
        except WebConfigError as error:
            _log.error("web_config_rejected", file=str(self._path), problems=error.problems)
            return
        _log.info("web_config_reloaded", file=str(self._path))

    def context(self) -> ssl.SSLContext | None:
        """TLS for a new connection."""
        return self._config.context

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers for every answer."""
        return self._config.headers

    def admit(self, peer: ssl.SSLSocket) -> bool:
        """Whether one of the certificate's alternative names is on the list, where there is a list."""
        allowed = self._config.allowed_sans
        if allowed is None:
            return True
        certificate = peer.getpeercert() or {}
        names = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
        return any(name in allowed for _, name in names)

    def refuse(self, request: Request) -> Response | None:
        """429 above the rate, 401 without a right user and password, else None. Who looks at a probe's address passes."""
        if request.path in PROBES and request.method in ("GET", "HEAD"):
            return None
        config = self._config
        if config.rate_interval_seconds and not self._spend(config):
            return Response(b"too many requests\n", 429, headers=(("Retry-After", "1"),))
        if config.users and not self._knows(config.users, request.headers.get("authorization", "")):
            return Response(b"unauthorized\n", 401, headers=(("WWW-Authenticate", 'Basic realm="tpw-exporter"'),))
        return None

    def _spend(self, config: WebConfig) -> bool:
        """Take one token of the bucket."""
        with self._lock:
            now = self._clock()
            gained = (now - self._refilled_at) / config.rate_interval_seconds
            self._tokens = min(float(config.rate_burst), self._tokens + gained)
            self._refilled_at = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def _knows(self, users: Mapping[str, bytes], authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        if not colon:
            return False
        # For a user that does not exist another's hash is tried, so that the time does not tell who does.
        hashed = users.get(user)
        secret = password.encode()
        right = self._passwords.check(secret, hashed or next(iter(users.values())))
        return right and hashed is not None


class _Passwords:
    """Checks passwords, one at a time, and remembers the right ones.

    bcrypt is slow on purpose: the right ones are remembered (as keyed digests) so that a scrape does not pay for it, and
    wrong ones can keep no more than one core busy.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._right: dict[bytes, None] = {}
        self._one = threading.Lock()

    def check(self, password: bytes, hashed: bytes) -> bool:
        digest = hashlib.blake2b(hashed + b"\0" + password, key=self._key).digest()
        if digest in self._right:
            return True
        package = bcrypt()
        if package is None:
            return False
        with self._one:
            try:
                # 72 bytes are all that bcrypt ever looked at; newer packages refuse longer ones.
                right = package.checkpw(password[:72], hashed)
            except ValueError:
                right = False
            if right:
                if len(self._right) >= _REMEMBERED_PASSWORDS:
                    self._right.clear()
                self._right[digest] = None
        return right


def _settled(path: Path) -> tuple[WebConfig, tuple[object, ...]]:
    """The configuration, and a signature taken before it was read: what changes from now on will be seen."""
    signature = _signature(load(path).files)
    return load(path), signature


def _signature(files: tuple[Path, ...]) -> tuple[object, ...]:
    """Changes when one of the files does."""
    result: list[object] = []
    for path in files:
        try:
            stat = path.stat()
            result.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError:
            result.append(None)
    return tuple(result)
