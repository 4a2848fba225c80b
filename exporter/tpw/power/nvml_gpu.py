"""One NVIDIA GPU as the meter keeps it: its identity, its plan, its latest values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from math import log
from typing import Any

from tpw.model import Gpu, PowerScope, SourceError
from tpw.power.nvml_codes import FIELD_POWER_AVERAGE
from tpw.power.nvml_probe import Field, Plan
from tpw.power.nvml_sharing import Occupancy

MEAN_SECONDS = 1.0
"""Time over which NVML averages power from Ampere on, except on GA100 (nvml.h)."""

SCOPE_SECONDS = 60.0
"""How long a superchip's counter is compared with GPU and module power. Chosen: 60 readings average out the load's
changes."""
SCOPE_CONTRAST = 1.15
"""Module and GPU power must differ by this factor. Chosen: most sensors that were compared with an external meter were off
by less than 9 % (arXiv 2312.02741)."""

_POWER_MARGIN, _ENERGY_MARGIN = 1.5, 1.25
"""Power above the first, and energy above the second part of the highest power is refused by :mod:`tpw.ledger.metering`."""

BURST_GAP_SECONDS = 1.5
"""Instants further apart are not joined. Chosen: longer than one tick of a second, shorter than two."""


class Beside(Enum):
    """What is read beside energy and power, each with a driver call of its own."""

    UTILIZATION = auto()
    MEMORY = auto()
    TEMPERATURE = auto()
    LIMIT = auto()
    """And the floor of power smoothing."""
    PROCESSES = auto()
    """Whether another process has joined the one that uses the GPU."""


SLOW_EVERY = 5
"""Memory, temperature and limit are read at every n-th read. Chosen: no dashboard shows them finer, and it saves four of
six calls."""
SLOW_DRIVER_SECONDS = 0.1
"""If one call for each GPU takes this long in all, a read makes one call beside the first at the most. Chosen: a tick of a
second leaves time for the others"""
VERY_SLOW_DRIVER_SECONDS = 5.0
"""If it takes this long, that is every other read."""
WITHOUT_COUNTER_SECONDS = 0.5
"""If it takes this long, that is every eighth read of a GPU without a counter: what it uses between two reads is a guess.
Chosen: with two calls for each GPU a read takes longer than the second that its power is a mean of."""
SAMPLES_SECONDS = 0.75
"""If it takes this long, a sample between two reads is too far from both to be joined to them."""

_ALL = tuple(Beside)
_TURNS = tuple(value for slow in _ALL[1:] for value in (Beside.UTILIZATION, slow))


def due_beside(reads: int, index: int, round_seconds: float, *, has_counter: bool = True) -> tuple[Beside, ...]:
    """What to read beside energy and power.

    Args:
        reads: how often this GPU was read since its probe.
        index: of the GPU: each takes its slow reads at another tick.
        round_seconds: how long one call for each GPU takes in all.
        has_counter: whether its energy is counted, so that no energy is lost between two reads.
    """
    if round_seconds < SLOW_DRIVER_SECONDS:
        return _ALL if reads == 0 or (reads + index) % SLOW_EVERY == 0 else (Beside.UTILIZATION,)
    every = 2 if round_seconds >= VERY_SLOW_DRIVER_SECONDS else 1
    if not has_counter and round_seconds >= WITHOUT_COUNTER_SECONDS:
        every = 8
    turn, rest = divmod(reads + index, every)
    if rest:
        return ()
    return (_TURNS[turn % len(_TURNS)],)


@dataclass(slots=True)
class SlowValues:
    """The latest of the values that are not read at every read."""

    utilization_ratio: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    temperature_celsius: float | None = None
    limit_watts: float | None = None
    floor_watts: float | None = None


@dataclass(slots=True)
class Failures:
    """Failed reads in a row, which decide when the GPU is opened or probed again."""

    reads: int = 0
    missing: int = 0
    """Reads without a value that the probe found."""
    unknown: int = 0
    """Reads that ended in "unknown error"."""
    last: SourceError | None = None
    down_until: float | None = None
    """The GPU is opened again at this monotonic instant; None while it is read."""

    above_bound: int = 0
    """Readings in a row above the highest power, which the ledger refuses: not failures of the read."""
    counted: tuple[float, float] | None = None
    """(instant, counter) of the last reading."""

    def reset(self) -> None:
        """A read succeeded."""
        self.reads = self.missing = self.unknown = 0
        self.last = None


class NvmlGpu:
    """One GPU and how it is read. Only the thread that reads it changes it."""

    __slots__ = (
        *(
            "burst",
            "failures",
            "fields",
            "handle",
            "info",
            "mig",
            "occupancy",
            "persistent",
            "plan",
            "reading",
            "reads",
        ),
        *("scope_check", "scope_found", "slow", "throttle_start"),
    )

    def __init__(self, info: Gpu) -> None:
        self.info = info
        self.handle: Any = None
        self.plan: Plan | None = None
        self.fields: list[Field] = []
        self.throttle_start = 0
        self.reads = 0
        self.reading = False
        """Whether a call for this GPU is in the driver."""
        self.failures = Failures()
        self.slow = SlowValues()
        self.burst = Burst()
        self.scope_check: ScopeCheck | None = None
        self.scope_found: PowerScope | None = None
        self.mig = False
        self.persistent = True
        """False where persistence mode is off."""
        self.occupancy = Occupancy()

    def follow(self, plan: Plan) -> None:
        """Use this plan from now on."""
        if plan.other_power is not None and self.scope_found is not None:
            power = plan.other_power if self.scope_found is PowerScope.GPU else plan.power
            plan = replace(plan, scope=self.scope_found, power=power, other_power=None)
        self.plan = plan
        self.scope_check = ScopeCheck() if plan.other_power is not None else None
        self.fields = [field for field in (plan.energy, plan.power, plan.other_power) if field is not None]
        self.throttle_start = len(self.fields)
        self.fields.extend((field, 0) for field, _ in plan.throttle)
        highest = plan.max_power_watts
        if plan.scope is PowerScope.MODULE:
            # Without a limit of the module there is no bound: the module draws more than the GPU's limit.
            module = plan.max_module_watts
            highest = None if module is None else max(highest or 0.0, module)
        self.info = replace(
            self.info,
            power_scope=plan.scope,
            energy_method=plan.method,
            method_note=plan.note,
            max_power_watts=highest,
            power_averaged=plan.call_averages if plan.power is None else plan.power[0] == FIELD_POWER_AVERAGE,
            remarks=tuple(_remarks(plan, self.info.name, mig=self.mig, persistent=self.persistent)),
        )

    @property
    def mean_seconds(self) -> float:
        """Time over which its power readings are a mean; 0: they are instants."""
        return MEAN_SECONDS if self.info.power_averaged else 0.0

    def count_refusal(self, at: float, joules: float | None, watts: float | None) -> None:
        """Notice a reading above the highest power of this GPU."""
        most, before = self.info.max_power_watts, self.failures.counted
        self.failures.counted = None if joules is None else (at, joules)
        if most is None:
            return
        above = watts is not None and watts > _POWER_MARGIN * most
        if joules is not None and before is not None and at > before[0]:
            above = above or joules - before[1] > _ENERGY_MARGIN * most * (at - before[0])
        self.failures.above_bound = self.failures.above_bound + 1 if above else 0


def _remarks(plan: Plan, name: str, *, mig: bool, persistent: bool) -> Iterator[str]:
    if not persistent:
        yield (
            "Persistence mode is off: the driver unloads the GPU when its last program ends, and its settings are lost"
            " (whether its energy counter restarts is not documented). This exporter keeps it loaded while it runs;"
            " nvidia-persistenced always."
        )
    if "laptop" in name.lower() or "max-q" in name.lower():
        yield (
            "A laptop GPU: reading it keeps it from its lowest power state, which was reported to cost 5 to 10 W. Raise"
            " `polling.interval`, or stop the exporter while nothing is served."
        )
    if plan.other_power is not None:
        yield (
            "A superchip: whether its energy counter covers the GPU or the whole module is determined within a minute;"
            " until then it counts as the module's."
        )
    elif plan.scope is PowerScope.MODULE:
        yield "Power and energy are those of the whole module, its CPU included: NVML reports none of the GPU alone."
    if mig:
        yield (
            "MIG is on: power and energy are those of the whole GPU, since instances have no meters, and NVML reports no"
            " utilisation."
        )


class Burst:
    """Readings of power since the last read, and their mean."""

    __slots__ = ("_at", "_joules", "_since", "_watts")

    def __init__(self) -> None:
        self._at = self._since = float("-inf")
        self._watts = self._joules = 0.0

    def add(self, at: float, watts: float, mean_seconds: float = 0.0) -> None:
        """Add one reading, a mean of so many seconds or an instant. After a gap the burst restarts: the power in between is
        unknown."""
        gap = at - self._at
        if gap > BURST_GAP_SECONDS:
            self._since, self._joules = at, 0.0
        else:
            averaged = min(gap, mean_seconds)
            self._joules += watts * averaged + 0.5 * (watts + self._watts) * (gap - averaged)
        self._at, self._watts = at, watts

    def end(self, mean_seconds: float = 0.0) -> tuple[float, float]:
        """(mean watts, its window in seconds), and start the next burst. With one reading: that, and ``mean_seconds``."""
        seconds = self._at - self._since
        watts = self._joules / seconds if seconds > 0.0 else self._watts
        self._since, self._joules = self._at, 0.0
        return watts, seconds or mean_seconds


class ScopeCheck:
    """Which of two powers a counter follows, over a minute of readings."""

    __slots__ = ("gpu_joules", "last", "module_joules", "start_joules", "start_seconds")

    def __init__(self) -> None:
        self.last: tuple[float, float, float] | None = None
        self.start_joules = self.start_seconds = self.gpu_joules = self.module_joules = 0.0

    def add(self, at: float, joules: float, module_watts: float, gpu_watts: float) -> PowerScope | None:
        """Add one reading. Returns the scope once it is known."""
        if self.last is None or joules < self.start_joules or at - self.last[0] > 10.0:
            self.last, self.start_joules, self.start_seconds = (at, module_watts, gpu_watts), joules, at
            self.gpu_joules = self.module_joules = 0.0
            return None
        before, module_before, gpu_before = self.last
        self.module_joules += (module_watts + module_before) / 2 * (at - before)
        self.gpu_joules += (gpu_watts + gpu_before) / 2 * (at - before)
        self.last = (at, module_watts, gpu_watts)
        counted = joules - self.start_joules
        if at - self.start_seconds < SCOPE_SECONDS or counted <= 0 or self.gpu_joules <= 0:
            return None
        if self.module_joules < SCOPE_CONTRAST * self.gpu_joules:
            return None
        nearer_gpu = abs(log(counted / self.gpu_joules)) < abs(log(counted / self.module_joules))
        return PowerScope.GPU if nearer_gpu else PowerScope.MODULE
