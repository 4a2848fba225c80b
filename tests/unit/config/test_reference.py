"""The JSON Schema and the reference page are generated from the sections."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from tpw.config import reference
from tpw.config.schema import Config
from tpw.settings.shapes import ByKind, ListOf, Section, settings_of

ROOT = Path(__file__).parents[3]
GOOD = sorted(
    [*(ROOT / "tests" / "captures" / "config" / "good").glob("*.yaml"), *(ROOT / "docs" / "tariffs").glob("*.yaml")]
)
BAD = ROOT / "tests" / "captures" / "config" / "bad"


@pytest.mark.parametrize("name", [reference.SCHEMA_FILE, reference.PAGE_FILE])
def test_the_committed_file_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == reference.generated()[name]


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(reference.json_schema())


def _parsed(path: Path) -> object:
    class Loader(yaml.SafeLoader):
        """Leaves dates as text, as an editor that applies the schema does."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return yaml.load(path.read_text(), Loader)  # noqa: S506 - derived from SafeLoader


@pytest.mark.parametrize("path", [path for path in GOOD if path.stem != "everything"], ids=lambda path: path.stem)
def test_good_file_validates_against_the_schema(path: Path) -> None:
    jsonschema.Draft202012Validator(reference.json_schema()).validate(_parsed(path))


@pytest.mark.parametrize(
    "name", ["polling", "facility", "facility_types", "tariff", "costs", "web_and_log", "servers", "meters", "dialects"]
)
def test_invalid_values_fail_the_schema(name: str) -> None:
    validator = jsonschema.Draft202012Validator(reference.json_schema())
    assert not validator.is_valid(_parsed(BAD / f"{name}.yaml"))


def test_every_setting_is_on_the_page() -> None:
    page = reference.reference_page()

    def walk(section: type) -> None:
        for key, (meaning, _) in settings_of(section).items():
            assert f"| `{key}` |" in page
            assert meaning.help.endswith((".", "..."))
            match meaning.shape:
                case ByKind():
                    for inner in meaning.shape.sections().values():
                        walk(inner)
                case Section(inner) | ListOf(Section(inner)):
                    walk(inner)

    walk(Config)


def test_check_finds_a_changed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--write", str(tmp_path)]) == 0
    assert reference.main(["--check", str(tmp_path)]) == 0
    (tmp_path / reference.PAGE_FILE).write_text("old")
    assert reference.main(["--check", str(tmp_path)]) == 1
    assert f"{reference.PAGE_FILE} is not up to date" in capsys.readouterr().err
    assert json.loads((tmp_path / reference.SCHEMA_FILE).read_text())["additionalProperties"] is False
