"""Which package may import which, and who may import what from outside the project."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tpw

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
    "snapshot": {"model", "ledger", "tariff.demand", "tariff.curve", "tariff.spans", "carbon.curve"},
    "store": {"model", "ledger", "snapshot", "tariff.demand"},
    "exposition": {"model", "ledger", "snapshot", "logs", "published", "tariff.spans", "tariff.windows"},
    "published": set(),
    "report": {"model", "ledger", "exposition.figures"},
    "billing": {"model", "tariff"},
    "measuring": {"model", "http", "exposition.status", "exposition.figures"},
    "advice": {"model", "ledger", "billing", "exposition.figures"},
    "config": {"settings", "tariff", "carbon"},
    "polling": {"model", "power", "tokens", "tariff", "discovery", "logs"},
}
"""Package -> what of ours it may import besides itself and the version. What is not listed puts the others together."""

COMPOSERS = {"daemon", "cli", "simulation", "__main__", "__init__"}

SOURCES = {"power", "tokens", "tariff", "carbon", "discovery"}
"""They do not import each other, except that carbon feeds use the machinery of price feeds."""

ONLY_IN: dict[str, set[str]] = {
    "apscheduler": {"daemon"},
    "prometheus_client": {"exposition"},
    "yaml": {"config", "exposition", "cli"},
    "pynvml": {"power"},
    "psutil": {"discovery", "power", "cli"},
    "structlog": {"logs", "polling", "exposition", "daemon", "cli", "store"},
}
"""Distribution's module -> the packages that may import it. What is not listed may not be imported at all."""

MAX_LINES = 250
"""Of a file in ``daemon``."""

MAX_FIELDS = 15
"""Of a class."""

MANY_FIELDS = {
    # Rows of data, one field per thing that is stored, shown or configured.
    "tariff/tables.py: Table",
    "config/schema.py: Config",
    "config/schema.py: Server",
    "exposition/status.py: GpuStatus",
    "exposition/status.py: ServerStatus",
    "exposition/status.py: Status",
    "ledger/books.py: Books",
    "ledger/books.py: GpuAccount",
    "ledger/books.py: ServerAccount",
    "ledger/tick.py: Policy",
    "snapshot.py: Snapshot",
    "tariff/layout.py: Layout",
    "tokens/dialects.py: Dialect",
}
"""Classes that have more."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(module: Path) -> Iterator[str]:
    """Full names of what a module imports, inside functions too."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            if node.module == "tpw":  # `from tpw import model` names a package, `from tpw import __version__` does not
                yield from ("tpw" if alias.name.startswith("__") else f"tpw.{alias.name}" for alias in node.names)
            else:
                yield node.module


def own_imports(module: Path) -> set[str]:
    """What it imports of our other packages, without the leading ``tpw.``."""
    names = {name.removeprefix("tpw.") for name in imports_of(module) if name.startswith("tpw.")}
    return {name for name in names if name.split(".")[0] != package_of(module)}


def outside_imports(module: Path) -> set[str]:
    """Top-level names it imports that are neither ours nor the standard library's."""
    names = {name.split(".")[0] for name in imports_of(module)}
    return names - set(sys.stdlib_module_names) - {"tpw"}


def test_every_package_is_listed():
    packages = {package_of(module) for module in modules()}
    assert packages - set(MAY_IMPORT) - COMPOSERS == set()


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_it_may(package):
    allowed = MAY_IMPORT[package]
    forbidden = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if package_of(module) == package
        for name in own_imports(module)
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)
    }
    assert forbidden == set()


def test_only_composers_import_a_composer():
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if package_of(module) not in COMPOSERS
        for name in own_imports(module)
        if name.split(".")[0] in COMPOSERS
    }
    assert offenders == set()


def test_the_daemon_does_not_import_the_command_line():
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if package_of(module) == "daemon"
        for name in own_imports(module)
        if name.split(".")[0] in COMPOSERS | {"exposition", "report"}
    }
    assert offenders == set()


def test_each_distribution_is_imported_only_where_it_may_be():
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        for name in outside_imports(module)
        if package_of(module) not in ONLY_IN.get(name, set())
    }
    assert offenders == set()


def test_sources_import_neither_prometheus_nor_apscheduler_nor_the_configuration_nor_each_other():
    foreign = {"prometheus_client", "apscheduler", "yaml"}
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if package_of(module) in SOURCES
        for name in (outside_imports(module) & foreign)
        | {name for name in own_imports(module) if name.split(".")[0] in SOURCES - MAY_IMPORT[package_of(module)]}
    }
    assert offenders == set()


def test_the_hook_imports_only_the_standard_library():
    offenders = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in modules()
        if package_of(module) == "hook"
        for name in outside_imports(module) | own_imports(module)
    }
    assert offenders == set()


def test_the_architecture_page_lists_these_packages_and_imports():
    text = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text().split("## Packages")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    assert {package: set(re.findall(r"`([\w.]+)`", allowed)) for package, allowed in rows} == MAY_IMPORT
    composers = set(re.findall(r"`(\w+)`", text.split("\nComposers:", 1)[1].split(".")[0]))
    assert composers == {name for name in COMPOSERS if not name.startswith("__")}


def test_no_file_of_the_daemon_is_long():
    lengths = {module.name: len(module.read_text().splitlines()) for module in (PACKAGE / "daemon").glob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_class_has_many_fields():
    large = {
        f"{module.relative_to(PACKAGE)}: {name}": fields
        for module in modules()
        for name, fields in classes(module)
        if fields > MAX_FIELDS
    }
    assert {name: fields for name, fields in large.items() if name not in MANY_FIELDS} == {}


def classes(module: Path) -> Iterator[tuple[str, int]]:
    """Name and number of fields of each class: annotated ones, and attributes that ``__init__`` assigns."""
    for node in ast.walk(ast.parse(module.read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        fields = {
            statement.target.id
            for statement in node.body
            if isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and "ClassVar" not in ast.unparse(statement.annotation)
        }
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                fields |= {
                    target.attr
                    for target in ast.walk(method)
                    if isinstance(target, ast.Attribute)
                    and isinstance(target.ctx, ast.Store)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                }
        yield node.name, len(fields)


def test_the_tests_import_the_wheel_that_make_built():
    """``make test`` puts the built wheel first. Tests that read the sources instead would prove nothing about it."""
    wheel = os.environ.get("TPW_TEST_WHEEL")
    expected = Path(wheel).resolve() / "tpw" if wheel else PACKAGE
    assert Path(tpw.__file__).resolve().parent == expected
