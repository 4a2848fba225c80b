"""The meter over dcgm-exporter's page. The pages are written here in the form its documentation and issues show."""

from __future__ import annotations

from typing import Any

import pytest

from support.pageserver import PageServer, answer
from tpw.model import EnergyMethod, PowerScope, Reason, SourceError
from tpw.power import accelerator_meter
from tpw.power.dcgm import DcgmMeter, is_blank, parse

A = 'gpu="0",UUID="GPU-aaaa",pci_bus_id="00000000:8D:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3"'
B = 'gpu="1",UUID="GPU-bbbb",pci_bus_id="00000000:91:00.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3"'
HOST = 'Hostname="node-1",DCGM_FI_DRIVER_VERSION="550.144.03"'

PAGE = f"""\
# HELP DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION Total energy consumption since boot (in mJ).
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{A},{HOST}}} 1234567890
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{B},{HOST}}} 500
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{{{A},{HOST},container="vllm",namespace="default",pod="chat, the first"}} 412.500000
DCGM_FI_DEV_POWER_USAGE{{{B},{HOST}}} 68.1
DCGM_FI_DEV_GPU_UTIL{{{A},{HOST}}} 87
DCGM_FI_DEV_GPU_TEMP{{{A},{HOST}}} 61
DCGM_FI_DEV_FB_USED{{{A},{HOST}}} 70000
DCGM_FI_DEV_FB_FREE{{{A},{HOST}}} 10000
DCGM_FI_DEV_FB_RESERVED{{{A},{HOST}}} 559
DCGM_FI_DEV_POWER_MGMT_LIMIT{{{A},{HOST}}} 700
DCGM_FI_DEV_SM_CLOCK{{{A},{HOST}}} 1980
"""


class Meters:
    """A meter over a page that tests exchange."""

    def __init__(self, page: str, clock: Any) -> None:
        self.page = page
        self.server = PageServer(lambda asked: answer(self.page))
        self.server.__enter__()
        self.meter = DcgmMeter(clock, url=f"{self.server.url}/metrics")

    def sweep(self, page: str | None = None) -> None:
        if page is not None:
            self.page = page
        self.meter.sweep()

    def close(self) -> None:
        self.meter.close()
        self.server.__exit__(None, None, None)


@pytest.fixture
def meters(clock: Any) -> Any:
    meters = Meters(PAGE, clock)
    yield meters
    meters.close()


def test_gpus_are_known_by_their_uuid(meters: Meters) -> None:
    meters.meter.open()
    meters.sweep()

    gpu = meters.meter.gpus()[0]

    assert [gpu.uuid for gpu in meters.meter.gpus()] == ["GPU-aaaa", "GPU-bbbb"]
    assert (gpu.index, gpu.name, gpu.driver_version) == (0, "NVIDIA H100 80GB HBM3", "550.144.03")
    assert (gpu.pci_bus_id, gpu.max_power_watts) == ("00000000:8D:00.0", 700.0)
    assert gpu.energy_method is EnergyMethod.COUNTER


def test_values_come_in_base_units(meters: Meters) -> None:
    meters.sweep()

    sample = meters.meter.read("GPU-aaaa")

    assert sample.energy_joules == 1234567.890
    assert (sample.power_watts, sample.power_limit_watts) == (412.5, 700.0)
    assert (sample.utilization_ratio, sample.temperature_celsius) == (0.87, 61.0)
    assert sample.memory_used_bytes == 70000 * 2**20
    assert sample.memory_total_bytes == 80559 * 2**20


def test_energy_is_passed_on_only_when_it_has_moved(meters: Meters, clock: Any) -> None:
    """dcgm-exporter collects every 30 s. A counter that is unchanged for two minutes has stopped."""
    energies = []
    for second in range(125):
        page = PAGE if second < 3 else PAGE.replace(" 1234567890", " 1234600000")
        page = page.replace(" 412.5", f" {412 + second // 30}.5")  # that exporter is alive
        meters.sweep(page)
        energies.append(meters.meter.read("GPU-aaaa").energy_joules)
        clock.advance(1.0)

    assert energies[:5] == [1234567.89, None, None, 1234600.0, None]
    assert energies[5:123] == [None] * 118
    assert energies[123:] == [1234600.0, 1234600.0]


@pytest.mark.parametrize("without", ["nothing", "ENERGY"])
def test_a_page_that_has_not_changed_for_two_minutes_is_of_an_exporter_that_hangs(
    meters: Meters, clock: Any, without: str
) -> None:
    """Its power would be integrated for ever: joules that nobody measured."""
    page = "".join(line for line in PAGE.splitlines(True) if without not in line)
    readings: list[float | None] = []
    for _ in range(120):
        meters.sweep(page)
        readings.append(meters.meter.read("GPU-aaaa").power_watts)
        clock.advance(1.0)
    meters.sweep(page)
    with pytest.raises(SourceError) as caught:
        meters.meter.read("GPU-aaaa")
    meters.sweep(page.replace("412.5", "413.5").replace(" 1234567890", " 1234600000"))
    again = meters.meter.read("GPU-aaaa")

    assert readings == [412.5] * 120
    assert caught.value.reason is Reason.TIMEOUT
    assert "for 120 s" in caught.value.detail
    assert "restart" in caught.value.hint
    assert (again.power_watts, again.energy_joules) == (413.5, None if without == "ENERGY" else 1234600.0)


def test_energy_that_is_missing_from_one_page_does_not_change_the_method(meters: Meters, clock: Any) -> None:
    blank = PAGE.replace(" 1234567890", " 9223372036854775794")
    meters.sweep()
    first = meters.meter.read("GPU-aaaa")
    methods = []
    for second in range(1, 124):
        clock.advance(1.0)
        meters.sweep(blank.replace("412.5", f"{412 + second}.5"))
        methods.append(meters.meter.gpus()[0].energy_method)
        assert meters.meter.read("GPU-aaaa").energy_joules is None

    assert first.energy_joules == 1234567.89
    assert methods == [EnergyMethod.COUNTER] * 119 + [EnergyMethod.INSTANT_POWER] * 4


@pytest.mark.parametrize(
    ("name", "without", "scope", "most"),
    [
        ("NVIDIA GH200 480GB", "nothing", PowerScope.MODULE, None),
        ("NVIDIA GB200", "nothing", PowerScope.MODULE, None),
        ("NVIDIA GH200 480GB", "ENERGY", PowerScope.GPU, 700.0),  # power is the GPU's own
        ("NVIDIA H100 80GB HBM3", "nothing", PowerScope.GPU, 700.0),
        ("NVIDIA B200", "nothing", PowerScope.GPU, 700.0),
    ],
)
def test_the_counter_of_a_superchip_is_taken_for_its_modules_so_that_no_cpu_is_added(
    meters: Meters, name: str, without: str, scope: PowerScope, most: float | None
) -> None:
    page = "".join(line for line in PAGE.splitlines(True) if without not in line)
    meters.sweep(page.replace("NVIDIA H100 80GB HBM3", name))
    gpu = meters.meter.gpus()[0]

    assert (gpu.power_scope, gpu.max_power_watts) == (scope, most)
    assert bool(gpu.remarks) is (scope is PowerScope.MODULE)


def test_without_the_energy_field_power_is_integrated(meters: Meters) -> None:
    meters.sweep("".join(line for line in PAGE.splitlines(True) if "ENERGY" not in line))

    gpu = meters.meter.gpus()[0]

    assert gpu.energy_method is EnergyMethod.INSTANT_POWER
    assert "does not export DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" in gpu.method_note
    assert meters.meter.read("GPU-aaaa").power_watts == 412.5


def test_mig_rows_repeat_the_gpu_and_never_add_to_it() -> None:
    """Seen on an A30: the same energy under each instance (dcgm-exporter issue 317); memory is really split."""
    rows = "".join(
        f'{name}{{gpu="0",UUID="GPU-aaaa",GPU_I_PROFILE="1g.6gb",GPU_I_ID="{instance}"}} {value}\n'
        for instance in (3, 4, 5)
        for name, value in (
            ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 126272101025 + instance),
            ("DCGM_FI_DEV_POWER_USAGE", 52.636),
            ("DCGM_FI_DEV_FB_USED", 1000),
        )
    )

    values = parse(rows)["GPU-aaaa"].values

    assert values["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"] == 126272101030
    assert values["DCGM_FI_DEV_POWER_USAGE"] == 52.636
    assert values["DCGM_FI_DEV_FB_USED"] == 3000


def test_a_row_of_the_gpu_takes_precedence_over_rows_of_its_instances() -> None:
    page = (
        'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-a",GPU_I_ID="1"} 60\n'
        'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-a"} 50\n'
        'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-a",GPU_I_ID="2"} 70\n'
    )

    assert parse(page)["GPU-a"].values == {"DCGM_FI_DEV_POWER_USAGE": 50.0}


def test_pods_that_share_a_gpu_repeat_it_and_never_add_to_it() -> None:
    page = "".join(
        f'DCGM_FI_DEV_FB_USED{{UUID="GPU-a",GPU_I_ID="{instance}",pod="{pod}"}} 1000\n'
        for instance in ("1", "2")
        for pod in ("one", "two")
    ) + "".join(f'DCGM_FI_DEV_POWER_USAGE{{UUID="GPU-a",pod="{pod}"}} 300\n' for pod in ("one", "two"))

    assert parse(page)["GPU-a"].values == {"DCGM_FI_DEV_FB_USED": 2000.0, "DCGM_FI_DEV_POWER_USAGE": 300.0}


@pytest.mark.parametrize(
    "value", [2147483632, 2147483634, 140737488355328.0, 140737488355330.0, 9223372036854775794, float("nan")]
)
def test_words_for_no_value_are_no_values(value: float) -> None:
    assert is_blank(float(value))
    assert parse(f'DCGM_FI_DEV_POWER_USAGE{{UUID="GPU-a"}} {value}\n') == {}


@pytest.mark.parametrize("value", [0.0, 52.6, 126272101025.0, 2147483631.0, 2147483648.0, 9e14])
def test_large_values_are_values(value: float) -> None:
    assert not is_blank(value)


def test_lines_that_cannot_be_read_are_passed_over() -> None:
    page = 'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-a"\nDCGM_FI_DEV_POWER_USAGE{UUID="GPU-a"} x\nDCGM_FI_DEV_POWER_USAGE 5\n'

    assert parse(page) == {}


def test_a_gpu_that_leaves_the_page_is_lost_and_stays_known(meters: Meters) -> None:
    meters.sweep()
    meters.sweep("".join(line for line in PAGE.splitlines(True) if "GPU-bbbb" not in line))

    with pytest.raises(SourceError) as caught:
        meters.meter.read("GPU-bbbb")

    assert caught.value.reason is Reason.LOST
    assert len(meters.meter.gpus()) == 2


def test_the_error_for_a_page_without_gpus_names_the_missing_metrics(meters: Meters) -> None:
    with pytest.raises(SourceError) as caught:
        meters.sweep("go_goroutines 12\n")

    assert caught.value.reason is Reason.DISABLED
    assert "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" in caught.value.hint


def test_a_page_that_cannot_be_had_is_unreachable(meters: Meters) -> None:
    meters.server.__exit__(None, None, None)
    with pytest.raises(SourceError) as caught:
        meters.meter.sweep()
    meters.server.__enter__()

    assert caught.value.reason is Reason.UNREACHABLE


def test_the_table_takes_its_options(clock: Any) -> None:
    meter = accelerator_meter("dcgm", clock, url="http://127.0.0.1:1/metrics", timeout_seconds=0.5)

    assert meter.name == "dcgm"
    with pytest.raises(TypeError, match="colour"):
        accelerator_meter("dcgm", clock, colour="green")
    with pytest.raises(ValueError, match="not an http or https address"):
        accelerator_meter("dcgm", clock, url="localhost:9400")
