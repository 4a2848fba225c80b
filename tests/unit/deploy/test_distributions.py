"""What is in the wheel and in the source distribution: the package, its licence, and nothing of the checkout besides."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tpw

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = {
    str(Path(folder, name).relative_to(ROOT / "exporter"))
    for folder, _, names in os.walk(ROOT / "exporter" / "tpw", followlinks=True)
    for name in names
    if not name.endswith(".pyc")
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", directory]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return directory


def test_the_wheel_is_the_package_and_its_licence(built: Path):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"tpw_exporter-{tpw.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"tpw_exporter-{tpw.__version__}.dist-info"
    beside = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert names == PACKAGE | beside
    assert "tpw/py.typed" in names


def test_the_source_distribution_builds_the_same_wheel(built: Path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    beside = {".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO"}
    assert names == {f"exporter/{name}" for name in PACKAGE} | beside
