"""Accelerators measured by other systems: a metered socket, a BMC behind Prometheus, or a number from a data sheet.

For accelerators that report nothing themselves (TPUs, LPUs), and to check a GPU against a meter in front of it. Their
energy has the method ``external`` or ``configured``, so it is never mistaken for the measurement of the device itself.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tpw.model import EnergyMethod, Gpu, GpuSample, Reason, SourceError
from tpw.power import Clock

if TYPE_CHECKING:
    from tpw.http.client import Client

EVERY_SECONDS = 15.0
"""Interval of the queries. Few Prometheus servers scrape more often."""
STALE_INTERVALS = 4.0
"""A value that is older than this number of intervals is an error."""
STANDSTILL_SECONDS = 6 * 3600.0
"""A counter that is unchanged for this time has stopped. One of whole kilowatt-hours changes every few hours."""
ALONE = "external"
"""Name of the GPU of a series without the label that names GPUs."""


@dataclass(frozen=True, slots=True)
class _Value:
    """Result of a query for one GPU."""

    value: float
    at_seconds: float
    """Monotonic instant of the value itself, not of the query."""


@dataclass(slots=True)
class _Reported:
    """What was returned of one GPU's counter of joules."""

    joules: float | None = None
    """The value last returned; None while none was."""
    changed_to: float | None = None
    changed_at_seconds: float = 0.0
    """Monotonic instant at which the counter was first seen at ``changed_to``."""


class ExternalMeter:
    """An :class:`tpw.power.AcceleratorMeter` over Prometheus' HTTP API, or over fixed numbers.

    Args:
        clock: monotonic seconds.
        watts: fixed watts by name of the GPU.
        url: Prometheus, or another server with its ``/api/v1/query``.
        power_query: PromQL with watts as its result, one series per GPU.
        energy_query: PromQL with a counter of joules as its result, one series per GPU; takes precedence over power.
        label: the label of the series that names the GPU.
        model: model of the GPUs, for the label ``name``.
        vendor: their vendor.
        max_power_watts: maximum power of a GPU, to reject impossible values.
        every_seconds: interval of the queries.
        headers_file, ca_file, insecure_skip_verify, timeout_seconds: see :class:`tpw.http.client.Client`.
        wall: Unix time, for the age of a value.
    """

    name = "external"

    def __init__(
        self,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        *,
        watts: Mapping[str, float] | None = None,
        url: str = "",
        power_query: str = "",
        energy_query: str = "",
        label: str = "gpu",
        model: str = "",
        vendor: str = "external",
        max_power_watts: float | None = None,
        every_seconds: float = EVERY_SECONDS,
        timeout_seconds: float = 5.0,
        headers_file: str = "",
        ca_file: str = "",
        insecure_skip_verify: bool = False,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._watts = {str(name): float(value) for name, value in (watts or {}).items()}
        self._queries = {"power": power_query, "energy": energy_query}
        self._label = label
        self._template = Gpu(
            uuid="",
            index=0,
            name=model,
            vendor=vendor,
            energy_method=EnergyMethod.EXTERNAL,
            max_power_watts=max_power_watts,
        )
        self._every = every_seconds
        if any(not math.isfinite(value) or value <= 0 for value in self._watts.values()):
            raise ValueError("watts of a GPU must be above 0")
        if bool(url) != bool(power_query or energy_query):
            raise ValueError("url needs power_query or energy_query, and they need url")
        if not url and not self._watts:
            raise ValueError("needs either watts, or url with power_query or energy_query")
        self._client: Client | None = None
        if url:
            from tpw.http.client import Client, Tls

            self._client = Client(
                url,
                timeout_seconds=timeout_seconds,
                headers_file=headers_file,
                tls=Tls(ca_file, skip_verify=insecure_skip_verify),
                clock=clock,
            )
        self._gpus: dict[str, Gpu] = {}
        self._power: dict[str, _Value] = {}
        self._energy: dict[str, _Value] = {}
        self._reported: defaultdict[str, _Reported] = defaultdict(_Reported)
        self._query_at = -math.inf
        self._error: SourceError | None = None
        for name in self._watts:
            self._add(name, EnergyMethod.CONFIGURED, "a fixed number of watts from the configuration")

    def open(self) -> None:
        """Query at the next sweep."""
        self._query_at = -math.inf

    def sweep(self) -> None:
        """Query Prometheus when it is due. Raises SourceError while no GPU is known; later failures are raised by the reads
        of the GPUs concerned."""
        if self._client is None or self._clock() < self._query_at:
            return
        self._query_at = self._clock() + self._every
        try:
            self._power = self._query("power")
            self._energy = self._query("energy")
            self._error = None
        except SourceError as error:
            self._error = error
            if not self._gpus:
                raise
            return
        for name in {**self._energy, **self._power}:
            if name in self._watts:
                continue
            what = "a counter of joules" if name in self._energy else "watts, which are integrated"
            self._add(name, EnergyMethod.EXTERNAL, f"from a Prometheus query: {what}")

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs found so far, in the order of their discovery."""
        return tuple(self._gpus.values())

    def read(self, uuid: str) -> GpuSample:
        """One GPU. Raises SourceError when its value is missing or too old."""
        name = uuid.removeprefix("EXT-")
        now = self._clock()
        fixed = self._watts.get(name)
        if fixed is not None:
            return GpuSample(uuid=uuid, at_seconds=now, power_watts=fixed)
        if self._error is not None:
            raise SourceError(self._error.reason, self._error.detail, self._error.hint)
        energy, power = self._energy.get(name), self._power.get(name)
        newest = max((value.at_seconds for value in (energy, power) if value is not None), default=None)
        if newest is None:
            raise SourceError(
                Reason.LOST,
                f"the query gives no series with {self._label}={name!r} any more",
                "Check the query in Prometheus, and the target behind it.",
            )
        if now - newest > STALE_INTERVALS * max(self._every, EVERY_SECONDS):
            raise SourceError(Reason.TIMEOUT, f"{name}: the newest value is {now - newest:.0f} s old")
        if energy is None and self._reported[name].joules is not None:
            raise SourceError(
                Reason.LOST,
                f"energy_query gives no series with {self._label}={name!r} any more",
                "Its power is not integrated instead: the counter will include that energy when it returns.",
            )
        if energy is not None and now - self._moved(name, energy.value, now) > STANDSTILL_SECONDS:
            raise SourceError(
                Reason.BROKEN,
                f"{name}: its counter has been at {energy.value:g} J for {STANDSTILL_SECONDS / 3600:g} hours",
                "Check the meter behind the query.",
            )
        return GpuSample(
            uuid=uuid,
            at_seconds=now,
            energy_joules=None if energy is None else self._new_energy(name, energy.value),
            power_watts=power.value if power is not None and power.value > 0 else None,
        )

    def close(self) -> None:
        """Drop the connection."""
        if self._client is not None:
            self._client.close()

    def _new_energy(self, name: str, joules: float) -> float | None:
        """The counter when it has changed: between two queries there is no newer value."""
        reported = self._reported[name]
        if reported.joules == joules:
            return None
        reported.joules = joules
        return joules

    def _moved(self, name: str, joules: float, now: float) -> float:
        """When the counter changed last."""
        reported = self._reported[name]
        if reported.changed_to != joules:
            reported.changed_to, reported.changed_at_seconds = joules, now
        return reported.changed_at_seconds

    def _add(self, name: str, method: EnergyMethod, note: str) -> None:
        uuid = f"EXT-{name}"
        if uuid not in self._gpus:
            self._gpus[uuid] = replace(
                self._template,
                uuid=uuid,
                index=len(self._gpus),
                name=self._template.name or name,
                energy_method=method,
                method_note=note,
            )

    def _query(self, which: str) -> dict[str, _Value]:
        """Values by GPU of one of the two queries."""
        query, client = self._queries[which], self._client
        if not query or client is None:
            return {}
        from tpw.http.prometheus import instant_query, series_of

        target = client.prefix + instant_query(query)
        now, wall = self._clock(), self._wall()
        values: dict[str, _Value] = {}
        for series in series_of(client.request(target), client.where(target), f"{which}_query"):
            name = str(series.labels.get(self._label, ALONE))
            if name in values:
                raise SourceError(
                    Reason.MALFORMED,
                    f"{which}_query gives several series with {self._label}={name!r}",
                    f"Aggregate it: sum by ({self._label}) (...).",
                )
            [(at_wall_seconds, value)] = series.samples
            if math.isfinite(value) and value >= 0:
                values[name] = _Value(value, now - max(0.0, wall - at_wall_seconds))
        return values
