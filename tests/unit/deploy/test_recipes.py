"""The recipes of docs/prices.md, as they stand there: shell lines run, queries are evaluated, manifests checked."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from support.realparts import prometheus_dir
from support.snapshots import EPOCH, empty_snapshot
from tpw.exposition.render import Page
from tpw.exposition.serving import Server
from tpw.exposition.web import Web
from tpw.model import PriceInterval
from tpw.snapshot import Prices
from tpw.tariff.curve import PriceCurve

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "prices.md").read_text()
HOUR = 3600.0
CHEAP = int(EPOCH + 3 * HOUR)
"""When the cheapest eight hours begin. It is midnight in UTC."""


def blocks(section: str, language: str) -> list[str]:
    part = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", part, re.MULTILINE | re.DOTALL)


def manifests(section: str) -> list[dict[str, Any]]:
    return [one for block in blocks(section, "yaml") for one in yaml.safe_load_all(block)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A daemon that knows a night: 0.30 until three, then 0.10 until eleven."""
    curve = PriceCurve.from_intervals(
        PriceInterval(EPOCH + begin * HOUR, EPOCH + end * HOUR, price)
        for begin, end, price in ((0, 3, 0.30), (3, 11, 0.10), (11, 40, 0.40))
    )
    snapshot = empty_snapshot()
    object.__setattr__(snapshot, "prices", Prices("EUR", curve.at(EPOCH), curve.next_change(EPOCH), curve, "UTC"))
    server = Server(["127.0.0.1:0"], Web(lambda: snapshot, Page()))
    server.start()
    yield f"http://127.0.0.1:{server.ports[0]}"
    server.stop()


def done_by(folder: Path, script: str, url: str, **others: str) -> list[str]:
    """The lines that stand-ins for other programs wrote while a script ran: their name and arguments. The date is that of
    the prices, and every address of the exporter is this one's."""
    words = '[*(word for word in sys.argv[1:] if "--url" not in word), "--url=' + url + '"]'
    tool = f"import sys; from tpw.cli import main; sys.exit(main({words}))"
    programs = {
        "tpw-exporter": f'exec "{sys.executable}" -c \'{tool}\' "$@"',
        "date": f'case "$1" in +%s) echo {int(EPOCH)};; *) TZ=UTC exec /bin/date "$@";; esac',
        "sleep": 'echo "sleep $*" >> done.txt',
        **{name: f'echo "{name} $*" >> done.txt' for name in ("sbatch", "kubectl")},
    }
    for name, body in {**programs, **others}.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        ["/bin/sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return [*(folder / "done.txt").read_text().splitlines(), *ran.stdout.splitlines()]


def test_the_shell_script_starts_with_the_cheapest_hours(tmp_path: Path, url: str):
    [script] = blocks("A shell script", "sh")
    train = {"train.sh": 'echo "train" >> done.txt'}
    assert done_by(tmp_path, script, url, **train) == [f"sleep {3 * 3600}", "train"]


def test_a_slurm_job_begins_with_the_cheapest_hours(tmp_path: Path, url: str):
    [script] = blocks("Slurm", "sh")
    assert done_by(tmp_path, script, url) == ["sbatch --begin=2026-01-01T03:00:00 train.sbatch"]


def test_the_cron_job_is_valid_and_resumes_the_job_in_the_cheapest_hours(tmp_path: Path, url: str):
    found = manifests("Kubernetes: a job that waits suspended")
    for one in found:
        kubernetes_validate.validate(one, "1.29", strict=True)
    pod = found[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [first], [second] = pod["initContainers"], pod["containers"]
    # A window of eight hours does not end before seven here: the deadline of the text is that of another night.
    script = f"{first['args'][0].replace('--before=07:00', '')}\n{second['args'][0]}".replace("/wait/", f"{tmp_path}/")
    assert done_by(tmp_path, script, url) == [
        f"sleep {3 * 3600}",
        'kubectl patch job train --type=merge --patch={"spec":{"suspend":false}}',
    ]
    names = {one["metadata"]["name"] for one in found}
    assert names == {pod["serviceAccountName"]}


def test_the_workflow_waits_for_the_cheapest_hours(tmp_path: Path, url: str):
    [flow] = manifests("Argo Workflows")
    templates = {one["name"]: one for one in flow["spec"]["templates"]}
    used = {step["template"] for steps in templates["main"]["steps"] for step in steps}
    assert used | {flow["spec"]["entrypoint"]} == set(templates)
    script = templates["prices"]["script"]["source"].replace("--before=07:00", "")
    assert done_by(tmp_path, f"touch done.txt\n{script}", url) == [str(3 * 3600)]


@pytest.mark.rules
@pytest.mark.parametrize("major", ["2", "3"])
def test_the_query_of_keda_gives_workers_by_the_rank(tmp_path: Path, major: str):
    [scaled] = manifests("KEDA")
    [trigger] = scaled["spec"]["triggers"]
    texts: Mapping[str, object] = trigger["metadata"]
    assert all(isinstance(text, str) for text in texts.values())  # KEDA accepts no numbers there
    assert float(texts["threshold"]) == 1.0  # type: ignore[arg-type]
    cases = [
        {"expr": texts["query"], "eval_time": f"{minute}m", "exp_samples": samples}
        for minute, samples in (
            (0, [{"labels": "{}", "value": scaled["spec"]["maxReplicaCount"]}]),
            (1, [{"labels": "{}", "value": 0}]),
            (9, []),
        )
    ]
    series = [
        {"series": f'tpw_electricity_price_rank_ratio{{instance="{node}"}}', "values": "0.2 0.3 stale"} for node in "ab"
    ]
    tests = {
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": cases}],
    }
    (tmp_path / "keda.yaml").write_text(yaml.safe_dump(tests))
    promtool = prometheus_dir(major) / "promtool"  # type: ignore[arg-type]
    ran = subprocess.run(
        [promtool, "test", "rules", "keda.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, textwrap.shorten(ran.stdout + ran.stderr, 2000)
