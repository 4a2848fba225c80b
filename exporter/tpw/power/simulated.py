"""Simulated GPUs, for the demo and for trying a configuration: the real pipeline over a plausible load.

Power follows a given load, with a jitter that depends only on the GPU and the time. Energy is the exact integral of power.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping

from tpw.model import EnergyMethod, Gpu, GpuSample, PowerScope, Reason, Sharing, SourceError
from tpw.power import Clock

IDLE_WATTS = 70.0
LOADED_WATTS = 640.0
LIMIT_WATTS = 700.0
MEMORY_BYTES = 80.0 * 2**30
JITTER = 0.03
CELL_SECONDS = 0.1
"""Power is constant over cells of this length."""
MAX_CELLS = 10_000
"""After a longer pause the cells are longer instead, so that a read stays cheap."""


def wave(gpu: int, at_seconds: float) -> float:
    """A load from 0 to 1: a slow wave with another phase for each GPU."""
    return max(0.0, min(1.0, 0.5 + 0.6 * math.sin(at_seconds / 60.0 + gpu)))


class SimulatedMeter:
    """An :class:`tpw.power.AcceleratorMeter` with simulated GPUs.

    Args:
        clock: monotonic seconds.
        load: (index, monotonic instant) -> load from 0 to 1, evaluated for each tenth of a second.
        holders: process ids by index; None: no GPU has processes.
        loaded: indices of the GPUs that hold a model without a process.
        max_cells: of one read.
        gpus: number of GPUs.
    """

    name = "simulated"

    def __init__(
        self,
        clock: Clock = time.monotonic,
        load: Callable[[int, float], float] = wave,
        holders: Callable[[], Mapping[int, frozenset[int]]] | None = None,
        loaded: Collection[int] = (),
        max_cells: int = MAX_CELLS,
        *,
        gpus: int = 4,
    ) -> None:
        self._clock = clock
        self._load = load
        self._holders = holders
        self._loaded = loaded
        self._max_cells = max_cells
        self._gpus = tuple(
            Gpu(
                uuid=f"GPU-51301a7e-0000-4000-8000-{index:012x}",
                index=index,
                name="Simulated H100 80GB",
                vendor="simulated",
                architecture="hopper",
                pci_bus_id=f"00000000:{0x10 + index:02X}:00.0",
                power_scope=PowerScope.GPU,
                energy_method=EnergyMethod.COUNTER,
                max_power_watts=LIMIT_WATTS,
            )
            for index in range(gpus)
        )
        self._index = {gpu.uuid: gpu.index for gpu in self._gpus}
        start = clock()
        self._joules = [0.0] * gpus
        self._upto = [start] * gpus
        # Counted, not computed from the instant: at the border of two cells a division may round to either side.
        self._cell = [math.floor(start / CELL_SECONDS)] * gpus

    def open(self) -> None:
        """Nothing to find."""

    def sweep(self) -> None:
        """Nothing to fetch."""

    def gpus(self) -> tuple[Gpu, ...]:
        """All of them."""
        return self._gpus

    def read(self, uuid: str) -> GpuSample:
        """Read one GPU. Raises SourceError for an unknown UUID."""
        index = self._index.get(uuid)
        if index is None:
            raise SourceError(Reason.LOST, f"{uuid}: not a simulated GPU")
        now = self._clock()
        self._integrate(index, now)
        load = self._load(index, now)
        return GpuSample(
            uuid=uuid,
            at_seconds=now,
            energy_joules=self._joules[index],
            power_watts=self._watts(index, math.floor(now / CELL_SECONDS)),
            power_limit_watts=LIMIT_WATTS,
            utilization_ratio=round(load, 2),
            memory_used_bytes=MEMORY_BYTES * (0.85 if index in self._loaded or self._held(index) else 0.01),
            memory_total_bytes=MEMORY_BYTES,
            temperature_celsius=round(32.0 + 40.0 * load),
            throttle_seconds=(("sw_power_cap", 0.0), ("hw_thermal", 0.0)),
        )

    def sharing(self, uuid: str) -> Sharing:
        """The process ids that the caller gave."""
        return Sharing(self._held(self._index.get(uuid, -1)))

    def close(self) -> None:
        """Nothing to release."""

    def _held(self, index: int) -> frozenset[int]:
        return frozenset() if self._holders is None else self._holders().get(index, frozenset())

    def _watts(self, index: int, cell: int) -> float:
        load = self._load(index, cell * CELL_SECONDS)
        noise = ((cell * 2654435761 + index * 40503 + 12345) & 0xFFFFFFFF) / 2**32 - 0.5
        return (IDLE_WATTS + (LOADED_WATTS - IDLE_WATTS) * math.pow(max(0.0, min(1.0, load)), 0.8)) * (
            1.0 + JITTER * noise
        )

    def _integrate(self, index: int, now: float) -> None:
        at, cell = self._upto[index], self._cell[index]
        stride = max(1, math.ceil((now - at) / CELL_SECONDS / self._max_cells))
        while at < now:
            end = (cell + stride) * CELL_SECONDS
            self._joules[index] += self._watts(index, cell) * (min(now, end) - at)
            if now < end:
                at = now
            else:
                at, cell = end, cell + stride
        self._upto[index], self._cell[index] = at, cell
