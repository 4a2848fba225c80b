"""Dashboards as grafana.com takes them: the data source is asked for at the import, and what is needed is listed.

``python -m grafana.publish FOLDER`` writes them; ``make chart`` does so beside the packed chart. The committed files choose
their data source by a variable instead, because files and ConfigMaps are provisioned without an import.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from grafana.render import dashboards
from grafana.values import Values

INPUT = "DS_PROMETHEUS"
OLDEST = "11.6.0"
PANELS = {
    "bargauge": "Bar gauge",
    "stat": "Stat",
    "state-timeline": "State timeline",
    "status-history": "Status history",
    "table": "Table",
    "text": "Text",
    "timeseries": "Time series",
    "xychart": "XY Chart",
}


def published(document: str) -> dict[str, Any]:
    """A dashboard with inputs instead of the variable of the data source."""
    text = document.replace("${datasource:queryparam}&", "").replace("${datasource}", f"${{{INPUT}}}")
    found: dict[str, Any] = json.loads(text)
    kinds = {panel["type"] for panel in _panels(found) if panel["type"] != "row"}
    found["templating"]["list"] = [one for one in found["templating"]["list"] if one["name"] != "datasource"]
    source = {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"}
    return {
        "__inputs": [
            {
                "name": INPUT,
                "label": "Prometheus",
                "description": "The Prometheus that scrapes the exporters, with the recording rules of tpw-exporter.",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "__elements": {},
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": OLDEST},
            source,
            *({"type": "panel", "id": kind, "name": PANELS[kind], "version": ""} for kind in sorted(kinds)),
        ],
        **found,
        "id": None,
    }


def _panels(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [inner for panel in document["panels"] for inner in (panel, *panel.get("panels", ()))]


def main() -> int:
    """Write them. Exit status: 0 written, 2 no folder was named."""
    if len(sys.argv) != 2:
        print("usage: python -m grafana.publish FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for uid, text in dashboards(Values()).items():
        (folder / f"{uid}.json").write_text(json.dumps(published(text), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
