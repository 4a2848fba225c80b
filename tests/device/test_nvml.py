"""The NVML meter on a real driver. Run with ``make test-device`` on a machine that has a GPU."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket

import pynvml
import pytest

from support.devicechecks import (
    LEAST_SECONDS,
    Finding,
    check_call_times,
    check_counter,
    check_daemon,
    check_power,
    check_processes,
    check_throttle,
    check_usage,
    time_calls,
)
from support.scraped import parse
from support.servers import http_request
from support.watched_gpus import Watched, refresh_seconds, watch
from tpw.model import EnergyMethod, Gpu, SourceError
from tpw.power.nvml import NvmlMeter

SECONDS = LEAST_SECONDS
CAP_SECONDS = 20

Judge = Callable[[str, Sequence[Finding]], None]

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gpus() -> tuple[Gpu, ...]:
    meter = NvmlMeter()
    try:
        meter.open()
    except SourceError as error:
        pytest.skip(f"no usable NVIDIA driver: {error.detail}")
    found = meter.gpus()
    meter.close()
    if not found:
        pytest.skip("the NVIDIA driver lists no GPU")
    return found


@pytest.fixture(scope="module")
def refreshes(gpus: tuple[Gpu, ...]) -> dict[str, float | None]:
    """Refresh interval of each counter, seconds."""
    meter = NvmlMeter()
    meter.open()
    intervals = {gpu.uuid: refresh_seconds(meter, gpu.uuid, time.monotonic, time.sleep) for gpu in gpus}
    meter.close()
    return intervals


@pytest.fixture(scope="module")
def idle(gpus: tuple[Gpu, ...]) -> dict[str, Watched]:
    return watch(NvmlMeter(), SECONDS, time.monotonic, time.sleep)


@contextmanager
def busy(uuid: str, seconds: float, duty: float = 1.0) -> Iterator[int]:
    """Run a load on the GPU, and return its process id. Skips the test where that is impossible."""
    command = [sys.executable, "-m", "support.cudaload", uuid, str(seconds), str(duty)]
    with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            if process.stdout.readline().strip() != "busy":
                process.kill()
                pytest.skip(f"{uuid} cannot run a load: {process.stderr.read().strip()}")
            yield process.pid
        finally:
            process.kill()


def test_every_gpu_has_an_energy_method(gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        assert gpu.uuid.startswith("GPU-") and gpu.name
        assert (gpu.energy_method is EnergyMethod.COUNTER) == (gpu.method_note == "")


def test_every_call_is_quick_enough_for_a_tick(gpus: tuple[Gpu, ...], judge: Judge) -> None:
    pynvml.nvmlInit()
    try:
        for gpu in gpus:
            handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            judge(gpu.name, check_call_times(time_calls(pynvml, handle, time.perf_counter), len(gpus)))
    finally:
        pynvml.nvmlShutdown()


def test_idle_the_counter_agrees_with_the_integral_of_power(
    idle: dict[str, Watched], refreshes: dict[str, float | None], rows: list[tuple[str, ...]], judge: Judge
) -> None:
    for uuid, watched in idle.items():
        rows.append(watched.row("as it was", refreshes[uuid]))
    for watched in idle.values():
        judge(watched.gpu.name, [*check_counter(watched), *check_power(watched)])


def test_under_load_the_counter_agrees_with_the_integral_of_power(
    gpus: tuple[Gpu, ...],
    idle: dict[str, Watched],
    refreshes: dict[str, float | None],
    rows: list[tuple[str, ...]],
    judge: Judge,
) -> None:
    uuid = gpus[0].uuid
    with busy(uuid, SECONDS + 30.0):
        time.sleep(3.0)
        watched = watch(NvmlMeter(), SECONDS, time.monotonic, time.sleep)[uuid]
    rows.append(watched.row("busy", refreshes[uuid]))

    judge(watched.gpu.name, [*check_counter(watched), *check_power(watched)])
    before = idle[uuid].watts
    if watched.watts is not None and before is not None:
        assert watched.watts > 1.2 * before, "a load draws more power"


def test_processes_are_listed_and_their_utilisation_has_a_meaning(gpus: tuple[Gpu, ...], judge: Judge) -> None:
    """Two processes, one busy for 60 and one for 20 % of the time."""
    gpu, meter = gpus[0], NvmlMeter()
    meter.open()
    try:
        with busy(gpu.uuid, 60.0, duty=0.6) as first, busy(gpu.uuid, 60.0, duty=0.2) as second:
            time.sleep(5.0)
            meter.sharing(gpu.uuid)
            use: dict[int, list[float]] = {first: [], second: []}
            listed: frozenset[int] | None = None
            handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            seen = 0
            for _ in range(20):
                time.sleep(1.0)
                listed = meter.sharing(gpu.uuid).pids
                with suppress(pynvml.NVMLError):
                    for sample in pynvml.nvmlDeviceGetProcessUtilization(handle, seen):
                        seen = max(seen, int(sample.timeStamp))
                        if sample.pid in use:
                            use[sample.pid].append(float(sample.smUtil))
    finally:
        meter.close()
    mean = {pid: sum(values) / len(values) for pid, values in use.items() if values}
    judge(gpu.name, [*check_processes(listed, frozenset(use)), *check_usage(mean, {first: 0.6, second: 0.2})])


def test_a_low_power_limit_is_seen_by_the_throttle_counters(gpus: tuple[Gpu, ...], judge: Judge) -> None:
    gpu, meter = gpus[0], NvmlMeter()
    meter.open()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        least, _ = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
        normal = pynvml.nvmlDeviceGetPowerManagementLimit(handle)
        try:
            pynvml.nvmlDeviceSetPowerManagementLimit(handle, least)
        except pynvml.NVMLError as error:
            pytest.skip(f"the power limit cannot be set: {error}")
        try:
            with busy(gpu.uuid, CAP_SECONDS + 30.0):
                time.sleep(3.0)
                before = meter.read(gpu.uuid).throttle_seconds
                time.sleep(CAP_SECONDS)
                after = meter.read(gpu.uuid).throttle_seconds
        finally:
            pynvml.nvmlDeviceSetPowerManagementLimit(handle, normal)
    finally:
        meter.close()
    judge(gpu.name, check_throttle(dict(before or ()), dict(after or ()), CAP_SECONDS, capped=True))


def test_instances_of_a_partitioned_gpu_are_listed(gpus: tuple[Gpu, ...]) -> None:
    """Where MIG is on: switching it on needs an idle GPU and an administrator."""
    partitioned = [gpu for gpu in gpus if gpu.mig_uuids]
    if not partitioned:
        pytest.skip("no GPU is in MIG mode")
    meter = NvmlMeter()
    meter.open()
    try:
        for gpu in partitioned:
            assert meter.read(gpu.uuid).energy_joules is not None
            assert {instance.uuid for instance in meter.sharing(gpu.uuid).instances} == set(gpu.mig_uuids)
    finally:
        meter.close()


def test_the_page_of_the_daemon_has_the_joules_of_the_counter(
    gpus: tuple[Gpu, ...], tmp_path: Path, judge: Judge
) -> None:
    gpu, meter = gpus[0], NvmlMeter()
    if gpu.energy_method is not EnergyMethod.COUNTER:
        pytest.skip("no energy counter")
    meter.open()
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tpw", f"--web.listen-address={address}", f"--state.dir={tmp_path}"]

    def both() -> tuple[float, float]:
        page = parse(http_request(f"http://{address}/metrics").decode())
        return page.value("tpw_gpu_energy_joules_total", uuid=gpu.uuid), meter.read(gpu.uuid).energy_joules or 0.0

    with subprocess.Popen(command) as daemon:
        try:
            time.sleep(10.0)
            before = both()
            with busy(gpu.uuid, 90.0):
                time.sleep(60.0)
            time.sleep(60.0)
            after = both()
        finally:
            daemon.terminate()
            daemon.wait(10)
            meter.close()
    judge(gpu.name, check_daemon(after[0] - before[0], after[1] - before[1]))
