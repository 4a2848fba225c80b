"""Power of the whole node from its management controller (Redfish).

A controller reports a mean over its own interval, which may be a minute old. So it is read at a slow interval and
integrated here. It is a component of its own (``node``) and is never added to GPUs or CPUs. In a chassis with several
nodes the value may be that of the chassis: choose the right one with ``chassis``.

Sources: DMTF DSP0266 (sessions, X-Auth-Token), DSP2046 (Chassis, EnvironmentMetrics.PowerWatts,
Power.PowerControl.PowerConsumedWatts).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from tpw.http.client import Client, Tls
from tpw.http.messages import Answer, json_of, status_error
from tpw.http.secrets import basic, read_credentials
from tpw.model import HostReading, HostSample, Reason, SourceError
from tpw.power import Clock

NODE = "node"
EVERY_SECONDS = 30.0
MOST_WATTS = 20_000.0
"""Upper bound of a node's power, unless its controller reports a higher capacity."""
_GAP_INTERVALS = 5.0
"""Nothing is integrated across a gap longer than this number of intervals."""


class RedfishMeter:
    """A :class:`tpw.power.HostMeter` with the component ``node``.

    Args:
        url: address of the controller.
        clock: monotonic seconds.
        credentials_file: a file with ``user:password``; "" to ask without.
        chassis: path of the chassis to read, e.g. ``/redfish/v1/Chassis/1``; "" for the system's own.
        every_seconds: how often it is read.
        timeout_seconds: for one exchange; controllers are slow.
        ca_file, insecure_skip_verify: see :class:`tpw.http.client.Client`.
    """

    name = "redfish"

    def __init__(
        self,
        clock: Clock = time.monotonic,
        *,
        url: str,
        credentials_file: str = "",
        chassis: str = "",
        every_seconds: float = EVERY_SECONDS,
        timeout_seconds: float = 10.0,
        ca_file: str = "",
        insecure_skip_verify: bool = False,
    ) -> None:
        self.every_seconds = every_seconds
        self._clock = clock
        self._credentials_file = credentials_file
        self._chassis = chassis.rstrip("/")
        self._client = Client(
            url,
            timeout_seconds=timeout_seconds,
            tls=Tls(ca_file, skip_verify=insecure_skip_verify),
            clock=clock,
        )
        self._authorization: dict[str, str] = {}
        self._session = ""
        self._resource = ""
        self._joules = 0.0
        self._last: tuple[float, float] | None = None

    def open(self) -> None:
        """Log in and find the resource with the power. Raises SourceError."""
        self._log_in()
        self._resource = self._find()

    def read(self) -> HostReading:
        """Current watts, and joules since the meter was created. Raises SourceError."""
        document = self._document(self._resource)
        found = power_of(document)
        now = self._clock()
        if found is None:
            raise SourceError(
                Reason.BROKEN,
                f"{self._resource}: no power reading (null or 0)",
                "The controller has no reading: check its log, or choose another chassis.",
            )
        watts, most = found
        if self._last is not None and now - self._last[0] <= _GAP_INTERVALS * self.every_seconds:
            self._joules += 0.5 * (watts + self._last[1]) * (now - self._last[0])
        self._last = (now, watts)
        return HostReading((HostSample(NODE, now, self._joules, watts, max(most, MOST_WATTS)),))

    def close(self) -> None:
        """Log out: controllers allow few sessions, and keep an abandoned one for half an hour."""
        if self._session:
            try:
                self._send("DELETE", self._session)
            except SourceError:
                self._session = ""
        self._session = ""
        self._authorization = {}
        self._client.close()

    # ---------------------------------------------------------------------------------------------------------- session

    def _log_in(self) -> None:
        self._authorization = {}
        if not self._credentials_file:
            return
        user, password = read_credentials(self._credentials_file)
        body = json.dumps({"UserName": user, "Password": password}).encode()
        path = "/redfish/v1/SessionService/Sessions"
        answer = self._send("POST", path, body)
        token = answer.headers.get("x-auth-token", "")
        if answer.status in (200, 201) and token:
            self._authorization = {"X-Auth-Token": token}
            self._session = urlsplit(answer.headers.get("location", "")).path
        elif answer.status in (404, 405, 501):  # a controller without sessions
            self._authorization = basic(user, password)
        elif answer.status == 400:
            raise SourceError(Reason.UNAUTHORIZED, f"{path}: HTTP 400: the login was refused", "Check user:password.")
        else:
            raise status_error(self._where(path), answer)

    def _send(self, method: str, path: str, body: bytes | None = None) -> Answer:
        headers = self._authorization if body is None else {"Content-Type": "application/json"}
        return self._client.request(self._client.prefix + path, method=method, body=body, headers=headers)

    def _where(self, path: str) -> str:
        return self._client.where(self._client.prefix + path)

    def _get(self, path: str) -> Answer:
        """GET with the session, which is opened again once where it has expired."""
        answer = self._send("GET", path)
        if answer.status == 401 and self._credentials_file:
            self._session = ""
            self._log_in()
            answer = self._send("GET", path)
        return answer

    def _document(self, path: str) -> dict[str, Any]:
        answer = self._get(path)
        if answer.status != 200:
            raise status_error(self._where(path), answer)
        document = json_of(answer.body, path)
        if not isinstance(document, dict):
            raise SourceError(Reason.MALFORMED, f"{path}: not a Redfish resource")
        return document

    # -------------------------------------------------------------------------------------------------------- discovery

    def _find(self) -> str:
        """Path of the resource with the node's power: of the chassis named, else of the system's, else of any."""
        tried: list[str] = []
        for chassis in self._candidates():
            if chassis in tried:
                continue
            tried.append(chassis)
            document = self._document(chassis)
            for link in ("EnvironmentMetrics", "Power"):
                path = _path(document.get(link))
                if (
                    path
                    and (answer := self._get(path)).status == 200
                    and power_of(json_of(answer.body, path)) is not None
                ):
                    return path
        raise SourceError(
            Reason.UNSUPPORTED,
            f"{self._client.where()}: no chassis with a power reading among {', '.join(tried) or 'none'}",
            "Name the chassis with `chassis`, or leave this meter out.",
        )

    def _candidates(self) -> Iterator[str]:
        if self._chassis:
            yield self._chassis
            return
        systems = sorted(self._members("/redfish/v1/Systems"), key=lambda path: "HGX" in path)  # the baseboard last
        for system in systems:
            links = self._document(system).get("Links") or {}
            yield from (path for path in map(_path, links.get("Chassis") or []) if path)
        yield from self._members("/redfish/v1/Chassis")

    def _members(self, collection: str) -> list[str]:
        answer = self._get(collection)
        if answer.status == 404:
            return []
        if answer.status != 200:
            raise status_error(self._where(collection), answer)
        document = json_of(answer.body, collection)
        members = document.get("Members") or [] if isinstance(document, dict) else []
        return [path for path in map(_path, members) if path]


def power_of(document: Any) -> tuple[float, float] | None:
    """(watts, capacity in watts or 0) of an EnvironmentMetrics or a Power resource. None for null and for 0, which
    controllers report while they have no reading.

    The first member of PowerControl is the whole by convention. On many controllers the others are its parts (CPUs,
    memory), so they never replace it.
    """
    if not isinstance(document, dict):
        return None
    sensor = document.get("PowerWatts")
    if isinstance(sensor, dict) and _is_power(sensor.get("Reading")):
        return float(sensor["Reading"]), 0.0
    controls = document.get("PowerControl")
    control = controls[0] if isinstance(controls, list) and controls else None
    if isinstance(control, dict) and _is_power(control.get("PowerConsumedWatts")):
        most = control.get("PowerCapacityWatts")
        return float(control["PowerConsumedWatts"]), float(most) if _is_power(most) else 0.0
    return None


def _is_power(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _path(link: Any) -> str:
    path = link.get("@odata.id") if isinstance(link, dict) else None
    return path.rstrip("/") if isinstance(path, str) else ""
