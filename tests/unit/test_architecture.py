"""The arrows between the rooms of the package, and who may import what from outside it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "exporter" / "tpw"

MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "logs": set(),
    "hook": set(),
    "http": {"model"},
    "settings": set(),
    "power": {"model", "http"},
    "tokens": {"model", "http"},
    "tariff": {"model", "http", "settings"},
    "carbon": {"model", "http", "settings", "tariff"},
    "discovery": {"model", "http"},
    "ledger": {"model", "tariff.demand", "tariff.months"},
    "snapshot": {"model", "ledger", "tariff.demand"},
    "store": {"model", "ledger", "snapshot", "tariff.demand"},
    "exposition": {"model", "ledger", "snapshot", "logs"},
    "report": {"model", "ledger", "exposition.figures"},
    "config": {"settings", "tariff", "carbon"},
    "polling": {"model", "power", "tokens", "tariff", "discovery", "logs"},
    "scheduler": {"model", "logs"},
}
"""Room -> what of ours it may import besides itself and the version. Rooms that are not listed compose the others."""

COMPOSERS = {"app", "assembly", "outlook", "cli", "simulation", "__main__", "__init__"}

SOURCES = {"power", "tokens", "tariff", "carbon", "discovery"}
"""Carbon feeds come the way price feeds come, so that one room may use the other's machinery: its arrow says so."""

ONLY_IN: dict[str, set[str]] = {
    "apscheduler": {"scheduler"},
    "prometheus_client": {"exposition"},
    "yaml": {"config", "exposition", "cli"},
    "pynvml": {"power"},
    "psutil": {"discovery", "power", "cli", "app"},
    "structlog": {"logs", "polling", "exposition", "app", "assembly", "cli", "scheduler", "store"},
}
"""Distribution's module -> the rooms that may import it. What is not listed may not be imported at all."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(module: Path) -> Iterator[str]:
    """Full names of what a module imports, inside functions too."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            if node.module == "tpw":  # `from tpw import model` names a room, `from tpw import __version__` does not
                yield from ("tpw" if alias.name.startswith("__") else f"tpw.{alias.name}" for alias in node.names)
            else:
                yield node.module


def of_ours(module: Path) -> set[str]:
    """The rooms' modules it imports, without the leading ``tpw.``."""
    names = {name.removeprefix("tpw.") for name in imports_of(module) if name.startswith("tpw.")}
    return {name for name in names if name.split(".")[0] != room_of(module)}


def from_outside(module: Path) -> set[str]:
    """Top-level names it imports that are neither ours nor the standard library's."""
    names = {name.split(".")[0] for name in imports_of(module)}
    return names - set(sys.stdlib_module_names) - {"tpw"}


def test_every_room_is_listed():
    rooms = {room_of(module) for module in modules()}
    assert rooms - set(MAY_IMPORT) - COMPOSERS == set()


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_its_arrows_allow(room):
    allowed = MAY_IMPORT[room]
    forbidden = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if room_of(module) == room
        for name in of_ours(module)
        if not any(name == each or name.startswith(f"{each}.") for each in allowed)
    }
    assert forbidden == set()


def test_nobody_but_composers_imports_a_composer():
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if room_of(module) not in COMPOSERS
        for name in of_ours(module)
        if name.split(".")[0] in COMPOSERS
    }
    assert offenders == set()


def test_each_distribution_is_imported_only_where_it_belongs():
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        for name in from_outside(module)
        if room_of(module) not in ONLY_IN.get(name, set())
    }
    assert offenders == set()


def test_sources_know_neither_prometheus_nor_scheduler_nor_configuration_nor_each_other():
    foreign = {"prometheus_client", "apscheduler", "yaml"}
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if room_of(module) in SOURCES
        for name in (from_outside(module) & foreign)
        | {name for name in of_ours(module) if name.split(".")[0] in SOURCES - MAY_IMPORT[room_of(module)]}
    }
    assert offenders == set()


def test_the_hook_imports_only_the_standard_library():
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if room_of(module) == "hook"
        for name in from_outside(module) | of_ours(module)
    }
    assert offenders == set()


def test_the_page_of_the_architecture_tells_these_rooms_and_arrows():
    import re

    text = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text().split("## Rooms")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    assert {room: set(re.findall(r"`([\w.]+)`", arrows)) for room, arrows in rows} == MAY_IMPORT
    composers = set(re.findall(r"`(\w+)`", text.split("\n`app`", 1)[1].split("put the rooms together")[0])) | {"app"}
    assert composers == {name for name in COMPOSERS if not name.startswith("__")}


def test_the_tests_import_the_wheel_when_told_so():
    """``make test`` puts the built wheel first; a suite that then read the sources would prove nothing about it."""
    import os

    import tpw

    wheel = os.environ.get("TPW_TEST_WHEEL")
    expected = Path(wheel).resolve() / "tpw" if wheel else PACKAGE
    assert Path(tpw.__file__).resolve().parent == expected
