"""Generated files are what the build writes now."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from grafana.build import main
from grafana.render import files
from grafana.values import Values

FILES = files(Values())


@pytest.mark.parametrize("name", FILES)
def test_generated_file_is_up_to_date(name: str, root: Path):
    path = root / name
    assert path.is_file(), f"{name} is missing: run python -m grafana.build"
    assert path.read_text(encoding="utf-8") == FILES[name], f"{name} is stale: run python -m grafana.build"


def test_check_prints_what_differs_and_writes_nothing(tmp_path: Path, capsys):
    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--out", str(tmp_path), "--check"]) == 0
    changed = tmp_path / "deploy" / "grafana" / "dashboards" / "overview.json"
    changed.write_text("{}\n")
    capsys.readouterr()
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out == "differs: deploy/grafana/dashboards/overview.json\n"
    assert changed.read_text() == "{}\n"


def test_building_twice_gives_the_same(root: Path):
    assert files(Values()) == FILES


def test_there_is_no_dashboard_that_the_build_does_not_write(root: Path):
    folder = root / "deploy" / "grafana"
    assert {f"deploy/grafana/dashboards/{path.name}" for path in (folder / "dashboards").iterdir()} == {
        name for name in FILES if name.endswith(".json")
    }


def test_a_generated_text_is_tracked_once(root: Path):
    """Copies differ sooner or later: the chart has links, Kustomize and compose read the files where they are."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=root, capture_output=True, text=True, check=True).stdout
    places: dict[str, list[str]] = {}
    for line in listed.splitlines():
        mode, blob, _, name = line.split(maxsplit=3)
        if mode != "120000":
            places.setdefault(blob, []).append(name)
    generated = [names for names in places.values() if FILES.keys() & set(names)]
    assert [names for names in generated if len(names) > 1] == []
