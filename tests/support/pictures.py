"""Pictures of all dashboards, dark and light, in four worlds: a day, the first hour, two clusters, training beside serving.

``PYTHONPATH=exporter:tests:. python -m support.pictures PREVIEW FOLDER [--world NAME] [--dashboard NAME] [--theme light]``
draws them to FOLDER/WORLD-DASHBOARD-THEME.png. PREVIEW holds a program ``preview.mjs`` that draws the JSON of a dashboard
over a Prometheus with Grafana's UI components; it is no part of this project. Exit status 1: a panel could not be drawn.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from support import fleetday, fleetrun, recorded, worlds
from support.realparts import chromium, prometheus_dir
from support.recorded import Prometheus
from support.samples import Samples
from tpw.exposition.catalogue import METRICS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
HOUR = 3600


def _day() -> tuple[Samples, int, int, int]:
    return fleetrun.live(), fleetday.START, fleetday.END, fleetday.END - 12 * HOUR


def _clusters() -> tuple[Samples, int, int, int]:
    day, both = fleetrun.live(), Samples()
    for cluster in ("eu", "us"):
        both.metrics = _merged(both, day.labelled(cluster=cluster))
    return both, fleetday.START, fleetday.END, fleetday.END - 12 * HOUR


def _world(name: str) -> Callable[[], tuple[Samples, int, int, int]]:
    def filled() -> tuple[Samples, int, int, int]:
        foreign = {"up", "process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}
        names = {*METRICS, *foreign, "scrape_duration_seconds", "scrape_samples_scraped"}
        samples = Samples()
        for node in worlds.WORLDS[name]:
            samples.metrics = _merged(samples, worlds.scraped(node, names))
        return samples, worlds.NOW - worlds.LONG, worlds.NOW - 60, worlds.NOW - 6 * HOUR

    return filled


def _merged(one: Samples, other: Samples) -> dict[str, dict]:  # type: ignore[type-arg]
    return {
        metric: {**one.metrics.get(metric, {}), **other.metrics.get(metric, {})}
        for metric in one.metrics.keys() | other.metrics.keys()
    }


WORLDS: dict[str, Callable[[], tuple[Samples, int, int, int]]] = {
    "day": _day,
    "start": _world("cold"),
    "clusters": _clusters,
    "training": _world("training"),
}
"""Samples, from when to when the rules are evaluated, and the begin of the time range of the dashboards."""


def main() -> int:
    """Draw them."""
    parser = argparse.ArgumentParser(prog="support.pictures", description=__doc__)
    parser.add_argument("preview", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", choices=WORLDS, action="append")
    parser.add_argument("--dashboard", action="append", help="its file's name without .json; all where left out")
    parser.add_argument("--theme", choices=["dark", "light"], action="append")
    parser.add_argument("--width", type=int, default=1180)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    browser = chromium()
    status = 0
    for world in options.world or WORLDS:
        samples, begin, end, since = WORLDS[world]()
        with recorded.serving(prometheus_dir("3")) as server:
            recorded.fill(server, samples)
            recorded.record(server, begin, end)
            recorded.alerts(server, begin, end)
            for name in options.dashboard or sorted(path.stem for path in FOLDER.glob("*.json")):
                for theme in options.theme or ("dark", "light"):
                    out = options.folder / f"{world}-{name}-{theme}.png"
                    status |= _draw(options, browser.environment(), server, name, theme, (since, end), out)
    return status


def _draw(
    options: argparse.Namespace,
    environment: dict[str, str],
    server: Prometheus,
    name: str,
    theme: str,
    shown: tuple[int, int],
    out: Path,
) -> int:
    begin, end = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at in shown)
    program = chromium().command(Path(), "")[0]
    done = subprocess.run(
        [
            "node", options.preview / "preview.mjs", f"--dashboard={FOLDER / name}.json", f"--prometheus={server.url}",
            f"--out={out}", f"--from={begin}", f"--to={end}", f"--theme={theme}", f"--width={options.width}",
            "--scrape-interval=60s", f"--chromium={program}",
        ],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(out.name, done.stdout.strip(), done.stderr.strip(), sep="\n  ", flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
