"""The meters of the configuration with their pollers: GPUs and the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from tpw.config.schema import Config
from tpw.daemon import sources
from tpw.discovery.ownership import bus_id
from tpw.model import AcceleratorReading, Gpu, GpuFault, GpuSample, HostSample, SourceError
from tpw.polling import AcceleratorPoller, HostPoller, SourceHealth
from tpw.power import AcceleratorMeter

_log = structlog.get_logger("tpw")

RELEASE_SECONDS = 2.0
"""How long a release waits for driver calls to return."""


class NewHealth(Protocol):
    """Makes the health record of a source, with the counts that the books hold."""

    def __call__(self, name: str, *, optional: bool = False) -> SourceHealth:
        """``optional``: whether the source is only tried because it is a default."""


class Meters:
    """Polls every meter of one configuration. All methods belong to the tick's thread.

    Args:
        config: names the meters.
        clock: monotonic seconds.
        new_health: see :class:`NewHealth`.
        given: meters to use in place of the configured accelerator meters.

    Raises:
        ValueError: a meter does not have one of its options.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float],
        new_health: NewHealth,
        given: Sequence[AcceleratorMeter] | None = None,
    ) -> None:
        self._clock = clock
        self._new_health = new_health
        self._given = given
        self.accelerators = self._accelerator_pollers(config)
        self._hosts = self._host_pollers(config)
        self.gpus: tuple[Gpu, ...] = ()
        """As last read."""
        self._duplicates: list[str] = []
        self._is_released = False

    def begin(self) -> None:
        """Start reading the GPUs."""
        for poller in self.accelerators:
            poller.begin()

    def begin_hosts(self) -> None:
        """Start reading the host."""
        for host in self._hosts:
            host.begin()

    def finish(self, deadline_seconds: float) -> AcceleratorReading:
        """What was read by a monotonic instant. A GPU that several meters report is the first meter's."""
        readings = [poller.finish(deadline_seconds) for poller in self.accelerators]
        reading = _merged(readings)
        self._duplicates = _duplicates(readings, reading)
        self.gpus = reading.gpus
        return reading

    def host_samples(self) -> tuple[HostSample, ...]:
        """What the host's meters have read since the last call. Does not wait."""
        readings = [host.finish() for host in self._hosts]
        return tuple(sample for reading in readings if reading is not None for sample in reading.samples)

    def health(self) -> tuple[SourceHealth, ...]:
        """Of every meter."""
        return (*(poller.health for poller in self.accelerators), *(host.health for host in self._hosts))

    @property
    def fatal(self) -> SourceError | None:
        """Why only a new process can read a meter; None while that is not so."""
        return next((poller.fatal for poller in self.accelerators if poller.fatal is not None), None)

    def notes(self) -> list[str]:
        """What the operator should know, in sentences."""
        notes = []
        for health in self.health():
            if health.is_omitted:
                status = health.status()
                notes.append(f"{health.name} is not read: {status.detail}. {status.hint}".rstrip())
        notes += [note for poller in self.accelerators for note in poller.notes]
        notes += [note for host in self._hosts for note in host.notes]
        notes += [
            f"{uuid} is reported by several meters of `accelerators`: only the first of them counts."
            for uuid in self._duplicates
        ]
        if self._is_released:
            notes.append("The GPU driver was released on request: SIGUSR2 (or `POST /-/resume`) opens it again.")
        return notes

    def release(self) -> bool:
        """Close the GPU drivers, so that a GPU can be reset or partitioned. Returns whether all are closed; where a call
        hangs, the driver is closed when that call returns."""
        self._is_released = True
        deadline = self._clock() + RELEASE_SECONDS
        open_still = [poller for poller in self.accelerators if not poller.release(deadline)]
        if open_still:
            _log.warning(
                "drivers_not_released", hint="A driver call has not returned. The driver is closed when it does."
            )
        else:
            _log.info("drivers_released")
        return not open_still

    def resume(self) -> bool:
        """Open the drivers again with the next read. Returns True."""
        self._is_released = False
        for poller in self.accelerators:
            poller.resume()
        _log.info("drivers_resumed")
        return True

    def reload(self, old: Config, new: Config) -> None:
        """Replace the meters of a section that differs."""
        deadline = self._clock() + 1.0
        if new.accelerators != old.accelerators and self._given is None:
            for poller in self.accelerators:
                poller.close(deadline)
            self.accelerators = self._accelerator_pollers(new)
            if self._is_released:
                for poller in self.accelerators:
                    poller.release(deadline)
        if new.host != old.host:
            for host in self._hosts:
                host.close()
            self._hosts = self._host_pollers(new)

    def close(self, within_seconds: float) -> None:
        """Close every meter and wait for hanging ones no longer than this."""
        deadline = self._clock() + within_seconds
        for poller in self.accelerators:
            poller.close(deadline)
        for host in self._hosts:
            host.close()

    def _accelerator_pollers(self, config: Config) -> list[AcceleratorPoller]:
        if self._given is not None:
            return [AcceleratorPoller(meter, self._clock, health=self._new_health(meter.name)) for meter in self._given]
        meters = sources.accelerator_meters(config, self._clock)
        return [
            AcceleratorPoller(meter, self._clock, health=self._new_health(meter.name, optional=chosen.optional))
            for chosen, meter in zip(config.accelerators, meters, strict=True)
        ]

    def _host_pollers(self, config: Config) -> list[HostPoller]:
        meters = sources.host_meters(config, self._clock)
        return [
            HostPoller(meter, self._clock, health=self._new_health(meter.name, optional=chosen.optional))
            for chosen, meter in zip(config.host.meters, meters, strict=True)
        ]


def _merged(readings: Sequence[AcceleratorReading]) -> AcceleratorReading:
    """All readings as one. A GPU that several meters report is the first one's, or it would be booked twice: by its UUID,
    or under another name by its place on the bus."""
    if len(readings) == 1:
        return readings[0]
    known: dict[str, Gpu] = {}
    samples: list[GpuSample] = []
    faults: list[GpuFault] = []
    for reading in readings:
        places = {bus_id(gpu.pci_bus_id) for gpu in known.values()} - {()}
        new = {gpu.uuid: gpu for gpu in reading.gpus if gpu.uuid not in known and bus_id(gpu.pci_bus_id) not in places}
        samples += [sample for sample in reading.samples if sample.uuid in new]
        faults += [fault for fault in reading.faults if fault.uuid in new]
        known |= new
    return AcceleratorReading(tuple(known.values()), tuple(samples), tuple(faults))


def _duplicates(readings: Sequence[AcceleratorReading], merged: AcceleratorReading) -> list[str]:
    """UUIDs of GPUs that more than one meter reports, as the meters name them that do not count."""
    if len(readings) == 1:
        return []
    uuids = Counter(gpu.uuid for reading in readings for gpu in reading.gpus)
    counted = {gpu.uuid for gpu in merged.gpus}
    return sorted(uuid for uuid, meters in uuids.items() if meters > 1 or uuid not in counted)
