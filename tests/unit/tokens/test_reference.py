"""The tables of engines in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tpw.config.load import load
from tpw.daemon import sources
from tpw.tokens import reference
from tpw.tokens.engines import DIALECTS

DOCUMENT = Path(__file__).parents[3] / "docs" / "servers.md"


def test_the_tables_in_the_documentation_are_current() -> None:
    """Rewrite them with: python -m tpw.tokens.reference --write docs/servers.md"""
    assert reference.main(["--check", str(DOCUMENT)]) == 0


def test_a_document_that_is_not_current_is_reported_and_updated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "servers.md"
    file.write_text(f"before\n{reference.BEGIN}\nold\n{reference.END}\nafter\n")
    assert reference.main(["--check", str(file)]) == 1
    assert "not up to date" in capsys.readouterr().err
    assert reference.main(["--write", str(file)]) == 0
    assert reference.main(["--check", str(file)]) == 0
    text = file.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text.splitlines()


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        reference.updated("nothing")


def test_an_engine_derived_from_another_row_has_its_own_caveats() -> None:
    assert len({dialect.caveats for dialect in DIALECTS if dialect.caveats}) == len(
        [dialect for dialect in DIALECTS if dialect.caveats]
    )


def test_every_engine_is_in_both_tables() -> None:
    lines = reference.tables().splitlines()
    for dialect in DIALECTS:
        assert sum(line.startswith(f"| `{dialect.name}` |") for line in lines) == 2


def examples() -> list[str]:
    """Indented blocks of YAML; a block with several files is split into them."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", DOCUMENT.read_text(), re.MULTILINE)
    parts = [part for block in blocks for part in re.split(r"(?m)^    #.*\n", block)]
    return [part for part in parts if part.strip().startswith(("servers:", "dialects:"))]


@pytest.mark.parametrize("example", examples(), ids=lambda text: text.split()[0] + str(len(text)))
def test_an_example_of_the_documentation_is_valid(example: str) -> None:
    sources.check(load(example, known=sources.known_names()))


def test_the_documentation_has_its_examples() -> None:
    assert len(examples()) == 5
