"""The project's glossary: words that the code, its tests and its texts do not use, and what to write instead.

Identifiers count as well: ``power_told`` contains ``told``.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

INSTEAD = {
    r"boards?": "GPU; or dashboard",
    r"cards?": "GPU",
    r"look(s|ed|ing)?(?![ _-]?(up|ahead|behind|back))": "read, poll, scrape, scan",
    r"glanc(e|es|ed|ing)": "sample",
    r"census": "scan",
    r"(tell|tells|telling|told)": "report, expose, return, know",
    r"(say|says|saying|said)": "report, state, return",
    r"(whose|of whom)": "owner, belongs to",
    r"(room|rooms|house)": "package, module, project",
    r"arrows?(?! keys?)": "import, dependency",
    r"at life": "ready",
    r"dear(er|est)?": "expensive, cheap",
    r"news": "price change, interval, reading",
    r"believed": "accepted, ignored",
    r"makes? no sense": "is not valid",
    r"nobody asks": "no requests",
    # The books of 0.1.0 hold `standing_since_seconds`.
    r"standing(?![ _]charges?|_since_seconds)": "fixed charges, current value, lasting",
}
"""Regular expression of a word -> what to write."""

PATTERN = re.compile(rf"(?<![a-z])({'|'.join(INSTEAD)})(?![a-z])", re.IGNORECASE)

NAMES = {"of", "told", "said", "each", "looks", "tells"}
"""Names that hide what a variable holds."""

TEXTS = {".py", ".md", ".yaml", ".yml", ".tpl", ".txt", ".toml", ".service", ".json", ".html", ".in", ""}
OTHERS = ("tests/captures/", "LICENSE", "tests/unit/test_language.py", "requirements/", "tests/golden/servers/")
"""Recorded text of others, and the glossary itself."""


def files() -> list[str]:
    """Every text of ours that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return [
        name
        for name in sorted(set(listed))
        if Path(name).suffix in TEXTS and not name.startswith(OTHERS) and (ROOT / name).is_file()
    ]


def folder(name: str) -> str:
    """What the findings are reported under: one package, or one folder of texts."""
    parts = Path(name).parts[:-1]
    return "/".join(parts[:3]) or "."


FILES = files()


def forbidden_words(name: str) -> Iterator[str]:
    for number, line in enumerate((ROOT / name).read_text().splitlines(), start=1):
        for match in PATTERN.finditer(line):
            yield f"{name}:{number}: {match.group()!r}"


def forbidden_names(name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in NAMES:
            yield f"{name}:{node.lineno}: variable {node.id!r}"
        elif isinstance(node, ast.arg) and node.arg in NAMES:
            yield f"{name}:{node.lineno}: argument {node.arg!r}"


@pytest.mark.parametrize("where", sorted({folder(name) for name in FILES}))
def test_the_words_of_the_glossary_are_used(where):
    mine = [name for name in FILES if folder(name) == where]

    assert [finding for name in mine for finding in forbidden_words(name)] == []


@pytest.mark.parametrize("where", sorted({folder(name) for name in FILES if name.endswith(".py")}))
def test_a_name_describes_what_it_holds(where):
    mine = [name for name in FILES if folder(name) == where and name.endswith(".py")]

    assert [finding for name in mine for finding in forbidden_names(name)] == []
