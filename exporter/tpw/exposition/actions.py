"""The operator's actions over HTTP: who may ask for them, and how many requests share one run.

A browser sends requests on behalf of any site its user visits, and a site can point its own name at this host (DNS
rebinding). An action therefore needs a host name that belongs to this exporter. Where the browser names the site that asks,
that site must be the exporter. No ``Sec-Fetch-Site`` proves nothing: browsers send it to https and loopback only.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

from tpw.exposition.http1 import Request
from tpw.exposition.listening import parse_address

Action = Callable[[], Sequence[str]]
"""An operator's action. Returns the problems; none if it succeeded."""

_MAX_WAITING = 8
"""Requests that wait for one run. Tuning: more than there are operators, less than there are connections."""

NOT_ENABLED = "is not enabled: start the exporter with --web.enable-lifecycle, or send it the signal {signal}"


class BusyError(Exception):
    """Too many requests wait for the same action."""


class Shared:
    """An action that runs once at a time. Requests that arrive before a run has begun share that run.

    Args:
        action: what is run.
        turn: held by the run; actions with the same lock take turns.
    """

    def __init__(self, action: Action, turn: threading.Lock | None = None) -> None:
        self._action = action
        self._turn = turn or threading.Lock()
        self._lock = threading.Lock()
        self._next: _Run | None = None

    def __call__(self) -> Sequence[str]:
        """Run it, or wait for a run that begins after this call. Raises BusyError, and what the action raises."""
        with self._lock:
            run, is_first = self._next, False
            if run is None:
                run, is_first = _Run(), True
                self._next = run
            elif run.waiting >= _MAX_WAITING:
                raise BusyError
            run.waiting += 1
        if not is_first:
            return run.result()
        with self._turn:
            with self._lock:
                self._next = None
            return run.perform(self._action)


class _Run:
    """One run and its result."""

    def __init__(self) -> None:
        self.waiting = 0
        self._is_over = threading.Event()
        self._problems: Sequence[str] = ()
        self._error: Exception | None = None

    def perform(self, action: Action) -> Sequence[str]:
        try:
            self._problems = action()
        except Exception as error:
            self._error = error
            raise
        finally:
            self._is_over.set()
        return self._problems

    def result(self) -> Sequence[str]:
        self._is_over.wait()
        if self._error is not None:
            raise self._error
        return self._problems


class Hosts:
    """The host names under which this exporter is known.

    An IP address is always one of them: a site can point its name at this host, but the browser then sends that name.

    Args:
        listen_addresses: what the exporter listens on.
        external_url: the address under which users reach it; "" for none.
        allowed: further host names.
        machine: name of this machine.
    """

    def __init__(
        self,
        listen_addresses: Iterable[str] = (),
        external_url: str = "",
        allowed: Iterable[str] = (),
        machine: str = "",
    ) -> None:
        machine = machine or socket.gethostname()
        names = [parse_address(address)[0] for address in listen_addresses]
        names += ["localhost", machine, machine.partition(".")[0], *allowed]
        if external_url:
            names.append(urlsplit(external_url).hostname or "")
        self._external = urlsplit(external_url.lower()).netloc
        self._names = frozenset(name.lower().rstrip(".") for name in names if name)

    def refusal(self, request: Request) -> str:
        """Why a request may not act on the exporter; "" if it may."""
        host = request.headers.get("host", "")
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "requests from another site are not allowed"
        if not self._is_known(_name(host)):
            return (
                f"the host name {_name(host)[:100]!r} is not known to this exporter: use an IP address or localhost, or add"
                " the name to web.allowed_hosts or give it with --web.external-url"
            )
        for header in ("origin", "referer"):
            site = request.headers.get(header)
            if site is not None and _authority(site) not in {host.lower(), self._external} - {""}:
                return f"requests from another site are not allowed ({header.capitalize()} is not this exporter)"
        return ""

    def _is_known(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """The host name of a Host header, without brackets and port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _authority(url: str) -> str:
    """``host:port`` of an http address, as a Host header has it; "" for another text (``null``)."""
    try:
        parts = urlsplit(url.lower())
    except ValueError:
        return ""
    return parts.netloc if parts.scheme in ("http", "https") else ""
