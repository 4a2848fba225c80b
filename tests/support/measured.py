"""``tpw-exporter measure`` in a process of its own, for the end-to-end tests."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fakenvml import FakeNvml
from support.servers import clean_environment, exporter_command


def configuration(url: str) -> dict[str, Any]:
    return {
        "polling": {"interval": "500ms"},
        "host": {"meters": []},
        "discovery": {"processes": False},
        "servers": [{"name": "chat", "url": url, "gpus": [0]}],
        "facility": {"pue": 1.2},
        "tariff": {"currency": "EUR", "energy": {"kind": "flat", "price_per_kwh": 0.31}},
        "costs": {"hardware": {"price_per_gpu": 30000, "years": 4}},
    }


class Measure:
    """The command in a process of its own."""

    def __init__(
        self, tmp_path: Path, environment: Mapping[str, str], config: Mapping[str, Any], *options: str
    ) -> None:
        file = tmp_path / "measure.yaml"
        file.write_text(yaml.safe_dump(dict(config)))
        self.output = tmp_path / "account.json"
        flags = [f"--config.file={file}", f"--output={self.output}", *options]
        self.process = subprocess.Popen(
            exporter_command("measure", *flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(**environment),
            text=True,
        )

    def finish(self, timeout: float = 120.0) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.output.read_text()))


def true_joules(nvml: FakeNvml, gpu: int, begin: float, end: float) -> float:
    """Between two moments of the wall clock."""
    offset = time.time() - time.monotonic()
    return nvml.true_joules(gpu, begin - offset, end - offset)
