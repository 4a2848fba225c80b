"""The systemd unit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tpw.config.flags import flags
from tpw.config.schema import Config

UNIT = Path(__file__).resolve().parents[3] / "deploy" / "systemd" / "tpw-exporter.service"


def settings(name: str) -> list[str]:
    return [line.split("=", 1)[1] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]


def test_systemd_accepts_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    (command,) = settings("ExecStart")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(command.split()[0], "/bin/true"))  # it wants the program to be there
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert complaints == []


def test_command_line_has_only_flags_that_exist():
    (command,) = settings("ExecStart")
    _, subcommand, *arguments = command.split()
    known = {f"--{flag.name}" for flag in flags()} | {"--config.file"}
    assert subcommand == "run"
    assert {argument.split("=")[0] for argument in arguments} <= known


def test_state_directory_is_the_default_one():
    assert settings("StateDirectory") == [Path(Config().state.dir).name]


def test_every_ambient_capability_is_in_the_bounding_set():
    (ambient,), (bounded,) = settings("AmbientCapabilities"), settings("CapabilityBoundingSet")
    assert ambient.split() == bounded.split() == ["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"]


def test_a_configuration_error_is_not_retried():
    assert settings("RestartPreventExitStatus") == ["2"]


def test_systemd_waits_for_the_first_tick_and_watches_the_others():
    assert settings("Type") == ["notify"]
    (watchdog,) = settings("WatchdogSec")
    # A stuck start or tick is reported by the process after a minute at most, with the default interval after 10 s.
    assert watchdog == "60s"
