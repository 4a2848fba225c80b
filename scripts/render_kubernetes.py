"""Renders deploy/kubernetes from the Helm chart, without a cluster and without Helm's command: ``make generate``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "helm" / "tpw-exporter"
TARGET = ROOT / "deploy" / "kubernetes"
HEADER = "# Rendered from deploy/helm/tpw-exporter by `make generate`: change the chart, not this file.\n"
VALUES = {"podMonitor": {"enabled": True}}
HELM_ONLY = re.compile(r"^ *(app\.kubernetes\.io/managed-by|helm\.sh/chart|checksum/config): .*\n", re.MULTILINE)
"""Lines that are used by Helm only."""


def rendered() -> dict[str, str]:
    """File name in deploy/kubernetes -> its text."""
    import helm_python

    manifests = helm_python.Chart.load(str(CHART)).render(VALUES, name="tpw-exporter", namespace="monitoring")
    files = {Path(name).name: text.strip() for name, text in manifests.items() if name.endswith(".yaml")}
    return {name: f"{HEADER}{HELM_ONLY.sub('', text)}\n" for name, text in sorted(files.items()) if text}


def main() -> int:
    """Writes the manifests."""
    for name, text in rendered().items():
        (TARGET / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
