"""The pinned requirements: complete, hashed, consistent, and silent about where they come from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "requirements").glob("*.txt"))
PARTS = [ROOT / "tests" / "support" / "realparts" / f"{name}.txt" for name in ("llama-model", "operator-models")]


def pins(path: Path) -> dict[str, str]:
    """Name -> version, of a file where every requirement is pinned and hashed."""
    found = {}
    for block in re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)):
        first = block.splitlines()[0].removesuffix("\\").strip()
        requirement = Requirement(first)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", first
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), first
        found[requirement.name] = specifier.version
    return found


@pytest.mark.parametrize("path", [*FILES, *PARTS], ids=lambda path: path.name)
def test_no_file_names_an_index(path):
    for line in path.read_text().splitlines():
        assert not re.search(r"https?:|(^|\s)(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b", line)


@pytest.mark.parametrize("path", [*FILES, *PARTS], ids=lambda path: path.name)
def test_everything_is_pinned_and_hashed(path):
    assert pins(path)


def test_the_larger_file_agrees_with_the_smaller_ones():
    all_of_it = pins(ROOT / "requirements" / "dev.txt")
    for name in ("runtime.txt", "image.txt", "build.txt"):
        part = pins(ROOT / "requirements" / name)
        assert {package: all_of_it.get(package) for package in part} == part


def test_the_image_has_the_packages_of_all_settings():
    """Basic auth and calendars of holidays cannot be installed in a container later."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image, runtime = pins(ROOT / "requirements" / "image.txt"), pins(ROOT / "requirements" / "runtime.txt")
    assert image.items() >= runtime.items()
    for extra in ("auth", "holidays"):
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            assert requirement.specifier.contains(image[requirement.name])
    assert "-r requirements/image.txt" in (ROOT / "Dockerfile").read_text()


def test_pinned_versions_satisfy_the_requirements_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(ROOT / "requirements" / "runtime.txt")
    for text in project["dependencies"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name]), text


def test_dashboards_are_built_with_the_pinned_builder():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (builder,) = [Requirement(text) for text in project["optional-dependencies"]["dashboards"]]
    assert builder.specifier.contains(pins(ROOT / "requirements" / "dev.txt")[builder.name])
