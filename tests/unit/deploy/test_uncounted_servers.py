"""What docs/uncounted-servers.md gives to copy is valid as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tpw.cli import _parser
from tpw.config.load import load
from tpw.hook.counting import Counters
from tpw.hook.paths import is_generating, is_read
from tpw.tokens.engines import ENGINES

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "uncounted-servers.md").read_text()
BLOCKS = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


def parsed(words: list[str]) -> Any:
    """The proxy's options; exits where there is no such option."""
    return vars(_parser(["proxy"]).parse_args(words))


def proxies() -> list[list[str]]:
    """Every command line of the proxy on the page."""
    compose = yaml.safe_load(BLOCKS["compose.yaml"])["services"]["counted"]["command"]
    deployment = next(yaml.safe_load_all(BLOCKS["ollama.yaml"]))
    sidecar = deployment["spec"]["template"]["spec"]["containers"][1]["args"]
    shell = [shlex.split(line)[1:] for line in re.findall(r"^    (tpw-exporter proxy.*)$", TEXT, re.MULTILINE)]
    return [compose, sidecar, *shell]


@pytest.mark.parametrize("words", proxies(), ids=" ".join)
def test_documented_commands_are_valid(words: list[str]):
    assert parsed(words)["upstream"].startswith("http://")


def test_exactly_the_options_of_the_proxy_are_documented():
    documented = set(re.findall(r"`--([a-z.-]+)`", TEXT.split("| flag |")[1].split("\n\n")[0]))
    options = set(parsed(["proxy"])) - {"command"}
    assert documented == options


def test_documented_configuration_is_valid():
    (server,) = load(BLOCKS["config.yaml"]).servers
    assert server.engine in ENGINES


def test_manifests_are_valid():
    for document in yaml.safe_load_all(BLOCKS["ollama.yaml"]):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_services_stop_later_than_their_responses_may_take():
    """The grace of the container is longer than that of the proxy in it."""
    pod = next(yaml.safe_load_all(BLOCKS["ollama.yaml"]))["spec"]["template"]["spec"]
    grace = float(parsed(pod["containers"][1]["args"])["shutdown-grace"])
    assert pod["terminationGracePeriodSeconds"] > grace
    counted = yaml.safe_load(BLOCKS["compose.yaml"])["services"]["counted"]
    assert int(counted["stop_grace_period"].removesuffix("s")) > 25


def test_every_metric_of_the_page_is_documented():
    counters = Counters()
    counters.add("m", {"audio_seconds": 1.0})
    counters.add_without_usage("/generate")
    published = set(re.findall(r"^(tpw_hook_\w+)", counters.page().decode(), re.MULTILINE))
    assert set(re.findall(r"^\| `(tpw_hook_\w+)", TEXT, re.MULTILINE)) == published


def test_documented_paths_are_counted():
    table = TEXT.split("| protocol | its usage | paths |")[1].split("\n\n")[0]
    named = re.findall(r"`([/:][A-Za-z0-9_/]+)`", " ".join(row.rsplit("|", 2)[1] for row in table.splitlines()[1:]))
    assert len(named) > 20
    assert [path for path in named if not (is_generating(path) and is_read("POST", path))] == []
