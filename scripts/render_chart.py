"""What of the Helm chart follows from other files, for ``make generate``.

The schema of its values contains the schema of the configuration, and its README a table of the values.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "helm" / "tpw-exporter"
CONFIGURATION = ROOT / "docs" / "configuration.schema.json"
EMBEDDED = re.compile(r'^    "configuration(?:_\w+)?": .*\n', re.MULTILINE)
"""The lines of the values' schema that hold it."""
BEGIN, END = "<!-- values, from values.yaml by `make generate` -->\n", "<!-- end of values -->\n"


def values_schema(text: str) -> str:
    """The schema of the values with the configuration's schema as it is now, which the exporter publishes."""
    schema = _for_helm(json.loads(CONFIGURATION.read_text()))
    schema.pop("$schema")
    parts = {f"configuration_{name}": part for name, part in schema.pop("$defs").items()}
    lines = [
        f'    "{name}": {json.dumps(part).replace("#/$defs/", "#/definitions/configuration_")},\n'
        for name, part in {"configuration": schema, **parts}.items()
    ]
    before, *after = EMBEDDED.split(text)
    return before + "".join(lines) + "".join(after)


def _for_helm(schema: Any) -> Any:
    """Without patterns that look ahead, which Go's regular expressions do not have: Helm would refuse the schema."""
    if isinstance(schema, list):
        return [_for_helm(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _for_helm(part) for key, part in schema.items()}
    return {key: part for key, part in kept.items() if key != "pattern" or not re.search(r"\(\?[=!<]", str(part))}


def readme(text: str) -> str:
    """The README with the table of values as it is now."""
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    rows = [f"| `{key}` | {_code(value)} | {meaning} |\n" for key, value, meaning in _described()]
    return text[:begin] + "\n| value | default | meaning |\n| --- | --- | --- |\n" + "".join(rows) + "\n" + text[end:]


def _code(value: object) -> str:
    """A default as YAML in one line."""
    return f"`{json.dumps(value)}`".replace("|", "\\|")


def _described() -> Iterator[tuple[str, Any, str]]:
    """Key, default and comment of every value that has a comment, and of every one without keys of its own."""
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.split("\n\n", 1)[1].splitlines():
        found = re.match(r"( *)(?:# ([^ ].*)|([A-Za-z]\w*):.*)$", line)
        if not found:
            comment = []
            continue
        indent, words, key = found.groups()
        if words is not None:
            comment.append(words)
            continue
        del path[len(indent) // 2 :]
        path.append(key)
        value = values
        for step in path:
            value = value[step] if isinstance(value, dict) else None
            if value is None:
                break
        if comment or (
            path[0] not in {"podSecurityContext", "securityContext"} and not (value and isinstance(value, dict))
        ):
            yield ".".join(path), value, " ".join(comment).replace("|", "\\|")
        comment = []


def rendered() -> dict[Path, str]:
    """Path -> text of the files."""
    makers = {"values.schema.json": values_schema, "README.md": readme}
    return {CHART / name: make((CHART / name).read_text()) for name, make in makers.items()}


def main() -> int:
    """Writes the files."""
    for path, text in rendered().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
