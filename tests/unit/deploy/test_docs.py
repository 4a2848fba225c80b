"""The pages are correct: links resolve, examples are valid, messages are those of the program."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tpw.config.load import load
from tpw.daemon.sources import known_names
from tpw.exposition.web_config import load as load_web
from tpw.power import ACCELERATOR_METERS, HOST_METERS, meter_options
from tpw.power.nvml_codes import library_error

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
CHART = ROOT / "deploy" / "helm" / "tpw-exporter"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "deploy").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
)
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a heading can be linked by: its words, small, joined by hyphens; the second of a name gets a number."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#+ (.+?)\s*$", FENCE.sub("", page.read_text()), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        times = found.get(slug, 0)
        found[slug] = times + 1
        result.add(f"{slug}-{times}" if times else slug)
    return result


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page: Path):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    broken = []
    for target in (one or other for one, other in LINK.findall(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def test_the_readme_lists_every_page():
    listed = set(re.findall(r"^\| \[[^]]+\]\(docs/(\w[\w-]*\.md)\)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_alerts_and_runbooks_are_linked_completely():
    linked = set(re.findall(r"deploy/runbooks/(\w+)\.md", (DOCS / "alerts.md").read_text()))
    assert linked == {path.stem for path in (ROOT / "deploy" / "runbooks").glob("*.md")}


# ------------------------------------------------------------------------------------------------------- troubleshooting


@cache
def texts_of_the_program() -> str:
    """Every text in the sources but docstrings, joined as the compiler joins them, without what is filled in."""
    texts = [str(library_error(code, "initialisation", started=False)) for code in (9, 12)]
    for module in (ROOT / "exporter" / "tpw").rglob("*.py"):
        tree = ast.parse(module.read_text())
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
        ]
    return "\n".join(texts)


def messages() -> list[str]:
    return [line for block in blocks(DOCS / "troubleshooting.md", "text") for line in block.splitlines()]


def test_there_are_messages_of_every_kind():
    assert len(messages()) >= 15


@pytest.mark.parametrize("message", messages())
def test_a_message_of_the_troubleshooting_page_is_one_of_the_program(message: str):
    texts = texts_of_the_program()
    fragments = [part.strip() for part in re.split(r"\.\.\.|[:;()`?]", message)]
    quoted = [part for part in fragments if len(part) > 3]
    assert quoted
    assert [part for part in quoted if part not in texts] == []


# ------------------------------------------------------------------------------------------------------ what is to copy


def values_blocks() -> list[dict[str, Any]]:
    found = [yaml.safe_load(block) for block in blocks(DOCS / "kubernetes.md", "yaml") if "# values.yaml" in block]
    assert len(found) == 3
    return found


@pytest.mark.parametrize("values", values_blocks(), ids=lambda values: next(iter(values)))
def test_values_in_the_pages_are_valid_for_the_chart(values: dict[str, Any]):
    texts = helm_python.Chart.load(str(CHART)).render(values, name="tpw-exporter", namespace="monitoring")
    for name, text in texts.items():
        for document in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            if document and document["kind"] not in {"PodMonitor", "PrometheusRule"}:
                kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_by_default_the_pod_has_the_hosts_processes_and_no_privilege():
    texts = helm_python.Chart.load(str(CHART)).render({}, name="tpw-exporter", namespace="monitoring")
    pod = yaml.safe_load(next(text for name, text in texts.items() if name.endswith("daemonset.yaml")))["spec"]
    spec = pod["template"]["spec"]
    (container,) = spec["containers"]
    assert (spec["hostPID"], spec["securityContext"]["runAsUser"]) == (True, 10101)
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert all(mount.get("readOnly") or mount["name"] == "state" for mount in container["volumeMounts"])


def test_the_documented_web_configuration_is_valid(tmp_path: Path):
    (block,) = [block for block in blocks(DOCS / "operating.md", "yaml") if "# web.yaml" in block]
    document = yaml.safe_load(block)
    assert set(document.pop("tls_server_config")) == {"cert_file", "key_file"}  # files that are not here
    file = tmp_path / "web.yaml"
    file.write_text(yaml.safe_dump(document))
    assert set(load_web(file).users) == {"prometheus"}


@pytest.mark.parametrize("block", blocks(DOCS / "meters.md", "yaml"))
def test_documented_meters_are_valid(block: str, tmp_path: Path):
    load(block, "meters.md", known=known_names())


def test_every_meter_and_every_option_of_it_is_documented():
    text = (DOCS / "meters.md").read_text()
    for name, location in {**ACCELERATOR_METERS, **HOST_METERS}.items():
        assert f"| `{name}` |" in text
        for option in meter_options(location):
            if name in HOST_METERS and option == "sysfs_root":
                continue  # host.sysfs is documented once for all
            assert f"`{option}`" in text, (name, option)
