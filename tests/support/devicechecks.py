"""What is checked on a real GPU, as functions of what was read.

They run in tests/device on a driver, and on the stand-in with planted faults in tests/unit/power/test_device_checks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

from support.watched_gpus import Watched
from tpw.power.nvml_codes import FIELD_POWER_AVERAGE, FIELD_POWER_INSTANT, FIELD_TOTAL_ENERGY

COUNTER_TOLERANCE = 0.03
"""Counter and integral of power come from the same sensors: the ledger's window of a minute has less."""
LEAST_SECONDS = 120
TICK_SECONDS = 0.5
"""Of a second's tick: after that, reads are late."""
DAEMON_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure, and what is wrong with it ("" where nothing is)."""

    check: str
    figure: str
    fault: str = ""


def faults(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.check}: {finding.fault} ({finding.figure})" for finding in findings if finding.fault]


# ------------------------------------------------------------------------------------------------------------ call times


@dataclass(frozen=True, slots=True)
class CallTime:
    median_seconds: float
    p99_seconds: float


def time_calls(nvml: Any, handle: Any, clock: Callable[[], float], repeats: int = 100) -> dict[str, CallTime]:
    """Time every call that the exporter makes for a GPU. Calls that are unsupported are timed as well."""
    fields = [(FIELD_TOTAL_ENERGY, 0), (FIELD_POWER_AVERAGE, 0), (FIELD_POWER_INSTANT, 0)]
    calls: dict[str, Callable[[], object]] = {
        "field values": lambda: nvml.nvmlDeviceGetFieldValues(handle, fields),
        "utilisation": lambda: nvml.nvmlDeviceGetUtilizationRates(handle),
        "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
        "temperature": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "limit": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle),
        "MIG mode": lambda: nvml.nvmlDeviceGetMigMode(handle),
        "compute processes": lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle),
        "process utilisation": lambda: nvml.nvmlDeviceGetProcessUtilization(handle, 0),
    }
    found = {}
    for name, call in calls.items():
        times = []
        for _ in range(repeats):
            begin = clock()
            with suppress(nvml.NVMLError):
                call()
            times.append(clock() - begin)
        times.sort()
        found[name] = CallTime(median(times), times[ceil(0.99 * len(times)) - 1])
    return found


def check_call_times(times: Mapping[str, CallTime], gpus: int) -> list[Finding]:
    """The time of each call, and what a tick costs on this machine and on one with 8 and 72 GPUs."""
    findings = [
        Finding(f"call: {name}", f"median {1e3 * t.median_seconds:.3f} ms, p99 {1e3 * t.p99_seconds:.3f} ms")
        for name, t in times.items()
    ]
    per_gpu = times["field values"].median_seconds + times["utilisation"].median_seconds
    per_gpu += sum(times[name].median_seconds for name in ("memory", "temperature", "limit")) / 5.0
    for count in sorted({gpus, 8, 72}):
        cost = count * per_gpu
        late = "a tick of a second is late" if cost > TICK_SECONDS and count == gpus else ""
        findings.append(Finding(f"tick of {count} GPUs", f"{1e3 * cost:.1f} ms", late))
    return findings


# ---------------------------------------------------------------------------------------------------------- the readings


def check_counter(watched: Watched) -> list[Finding]:
    """The counter against the integral of power, over two minutes or more."""
    # The raw counter: what the ledger books would hide that it is wrong.
    counter = watched.energies[-1] - watched.energies[0] if watched.energies else None
    power = watched.power_joules
    findings = []
    if watched.seconds < LEAST_SECONDS:
        findings.append(Finding("duration", f"{watched.seconds:.0f} s", f"less than {LEAST_SECONDS} s"))
    missing = watched.reads - len(watched.samples)
    findings.append(Finding("reads", f"{missing} of {watched.reads} without a sample", "many" if missing > 3 else ""))
    if watched.energies != sorted(watched.energies):
        findings.append(Finding("counter falls", "", "it is lower than before"))
    if counter is None:
        return [*findings, Finding("counter", "none")]
    if counter <= 0.0:
        return [*findings, Finding("counter", f"{counter:.0f} J", "it does not move")]
    if not power:
        return [*findings, Finding("counter", f"{counter:.0f} J", "no power to compare it with")]
    apart = counter / power - 1.0
    fault = "" if abs(apart) <= COUNTER_TOLERANCE else f"beyond {100 * COUNTER_TOLERANCE:.0f} %"
    return [*findings, Finding("counter against power", f"{counter:.0f} J, {power:.0f} J, {100 * apart:+.2f} %", fault)]


def check_power(watched: Watched) -> list[Finding]:
    """Whether the power sensor moves."""
    watts = [sample.power_watts for sample in watched.samples if sample.power_watts is not None]
    if not watts:
        return [Finding("power", "none")]
    stuck = len(watts) >= 60 and min(watts) == max(watts)
    return [Finding("power", f"{min(watts):.1f} to {max(watts):.1f} W", "every reading is the same" if stuck else "")]


def check_throttle(
    before: Mapping[str, float] | None, after: Mapping[str, float] | None, seconds: float, *, capped: bool
) -> list[Finding]:
    """The throttle counters over a time, in which a low power limit was in force or not."""
    if not before or not after:
        return [Finding("throttle", "no counters", "no throttle counters" if capped else "")]
    findings = []
    for reason, value in after.items():
        rise = value - before.get(reason, 0.0)
        wrong = "" if -1e-6 <= rise <= 1.05 * seconds + 0.1 else "no count of seconds"
        if capped and reason == "sw_power_cap" and rise < 0.2 * seconds:
            wrong = "the limit is not seen"
        findings.append(Finding(f"throttle: {reason}", f"{rise:+.2f} s of {seconds:.0f} s", wrong))
    return findings


# ------------------------------------------------------------------------------------------------------------- processes


def check_processes(listed: frozenset[int] | None, running: frozenset[int]) -> list[Finding]:
    """Whether the processes that run on the GPU are listed, by the ids that this machine knows them by."""
    if listed is None:
        return [Finding("processes", "no list", "no process list")]
    missing = running - listed
    fault = f"{len(missing)} of {len(running)} running processes are not listed" if missing else ""
    return [Finding("processes", f"{len(listed)} listed", fault)]


def check_usage(usage: Mapping[int, float] | None, duty: Mapping[int, float]) -> list[Finding]:
    """What process utilisation means: percent of time, or only a weight. ``duty``: share of time of each process."""
    if not usage:
        return [Finding("process utilisation", "none", "no utilisation by process")]
    given = {pid: usage.get(pid, 0.0) / 100.0 for pid in duty}
    figure = ", ".join(f"duty {share:.2f} read {given[pid]:.2f}" for pid, share in duty.items())
    if all(abs(given[pid] - share) <= 0.1 for pid, share in duty.items()):
        return [Finding("process utilisation", f"{figure}: share of time")]
    total, whole = sum(given.values()), sum(duty.values())
    if total > 0.0 and all(abs(given[pid] / total - share / whole) <= 0.1 for pid, share in duty.items()):
        return [Finding("process utilisation", f"{figure}: a weight, not a share of time")]
    return [Finding("process utilisation", figure, "neither share of time nor in proportion to it")]


# ----------------------------------------------------------------------------------------------------------- the exporter


def check_daemon(page_joules: float, counter_joules: float) -> list[Finding]:
    """The rise on the daemon's page against that of the counter, read beside it."""
    apart = page_joules / counter_joules - 1.0 if counter_joules > 0.0 else float("inf")
    fault = "" if abs(apart) <= DAEMON_TOLERANCE else f"beyond {100 * DAEMON_TOLERANCE:.0f} %"
    return [
        Finding("page against counter", f"{page_joules:.0f} J, {counter_joules:.0f} J, {100 * apart:+.2f} %", fault)
    ]
