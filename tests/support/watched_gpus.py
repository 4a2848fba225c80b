"""GPUs read for a while by the poller: energy by the counter, energy by the integral of power, and the counter's refresh.

Runs on a real driver (tests/device) and, on a clock that the test moves, on the stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from tpw.ledger.books import GpuAccount
from tpw.ledger.metering import measure
from tpw.model import AcceleratorReading, EnergyMethod, Gpu, GpuSample, Instant
from tpw.polling import AcceleratorPoller
from tpw.power import Clock
from tpw.power.nvml import NvmlMeter

Sleep = Callable[[float], object]

HEADINGS = (
    "GPU", "driver", "source", "load", "s", "counter J", "integral J", "difference %", "W", "refresh ms", "read ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Watched:
    """One GPU over several reads, one second apart."""

    gpu: Gpu
    samples: tuple[GpuSample, ...]
    reads: int
    """Including those without a sample."""
    longest_read_seconds: float

    @property
    def seconds(self) -> float:
        return self.samples[-1].at_seconds - self.samples[0].at_seconds

    @property
    def energies(self) -> list[float]:
        """The raw counter, read by read. Empty without a counter."""
        return [sample.energy_joules for sample in self.samples if sample.energy_joules is not None]

    @property
    def counter_joules(self) -> float | None:
        """What the ledger books by the counter."""
        if self.gpu.energy_method is not EnergyMethod.COUNTER:
            return None
        return sum(self._booked(self.gpu, self.samples))

    @property
    def power_joules(self) -> float | None:
        """What it would book by power, were there no counter. None where there is no power either."""
        if all(sample.power_watts is None for sample in self.samples):
            return None
        method = EnergyMethod.AVERAGE_POWER if self.gpu.power_averaged else EnergyMethod.INSTANT_POWER
        gpu = replace(self.gpu, energy_method=method)
        return sum(self._booked(gpu, [replace(sample, energy_joules=None) for sample in self.samples]))

    @property
    def watts(self) -> float | None:
        """On average, by the best that there is."""
        joules = self.counter_joules if self.counter_joules is not None else self.power_joules
        return None if joules is None or self.seconds <= 0.0 else joules / self.seconds

    def _booked(self, gpu: Gpu, samples: Sequence[GpuSample]) -> list[float]:
        account, joules = GpuAccount(gpu), []
        for sample in samples:
            step, account = measure(account, sample, Instant(sample.at_seconds, sample.at_seconds), 1.0)
            joules.append(step.joules or 0.0)
        return joules

    def row(self, load: str, refresh: float | None) -> tuple[str, ...]:
        counter, power = self.counter_joules, self.power_joules
        apart = f"{100 * (counter - power) / power:+.2f}" if counter is not None and power else ""
        return (
            self.gpu.name,
            self.gpu.driver_version,
            str(self.gpu.energy_method),
            load,
            f"{self.seconds:.0f}",
            "" if counter is None else f"{counter:.0f}",
            "" if power is None else f"{power:.0f}",
            apart,
            "" if self.watts is None else f"{self.watts:.0f}",
            "" if refresh is None else f"{1000 * refresh:.0f}",
            f"{1000 * self.longest_read_seconds:.1f}",
        )


def watch(meter: NvmlMeter, seconds: int, clock: Clock, sleep: Sleep) -> dict[str, Watched]:
    """Read every GPU once a second through the poller for so many seconds."""
    poller = AcceleratorPoller(meter, clock, sampling_seconds=0.0)
    readings: list[AcceleratorReading] = []
    longest = 0.0
    for _ in range(seconds + 1):
        start = clock()
        poller.begin()
        readings.append(poller.finish(start + 0.9))
        longest = max(longest, clock() - start)
        sleep(max(0.0, start + 1.0 - clock()))
    poller.close(clock() + 5)
    return {
        gpu.uuid: Watched(
            gpu,
            tuple(sample for reading in readings for sample in reading.samples if sample.uuid == gpu.uuid),
            len(readings),
            longest,
        )
        for gpu in readings[-1].gpus
    }


def refresh_seconds(meter: NvmlMeter, uuid: str, clock: Clock, sleep: Sleep, seconds: float = 2.0) -> float | None:
    """Median time between two changes of a GPU's counter. None without a counter, or with fewer than three changes."""
    moved: list[float] = []
    last: float | None = None
    end = clock() + seconds
    while clock() < end:
        sample = meter.read(uuid)
        if sample.energy_joules is None:
            return None
        if last is not None and sample.energy_joules > last:
            moved.append(sample.at_seconds)
        last = sample.energy_joules
        sleep(0.002)
    return median(b - a for a, b in pairwise(moved)) if len(moved) >= 3 else None
