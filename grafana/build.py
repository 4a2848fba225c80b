"""Writes every generated file: dashboards, rules and the list of alerts.

``python -m grafana.build`` writes, ``python -m grafana.build --check`` prints what differs and exits with 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grafana import render
from grafana.values import Values, addresses

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 written, or nothing differs; 1 something differs; 2 the values are not valid."""
    parser = argparse.ArgumentParser(prog="python -m grafana.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 where a file differs")
    parser.add_argument("--values", type=Path, help="a YAML mapping that replaces some of grafana/values.py")
    parser.add_argument(
        "--runbooks",
        metavar="URL",
        help="where the runbooks are published: alerts link to URL/NAME.md",
    )
    parser.add_argument("--grafana", metavar="URL", help="the address of Grafana: alerts link to their dashboard there")
    parser.add_argument("--out", type=Path, default=ROOT, help="the directory to write below (default: the checkout)")
    options = parser.parse_args(arguments)
    try:
        values = Values.load(options.values).with_changes(addresses(options.runbooks, options.grafana))
        files = render.files(values)
    except ValueError as error:
        print(f"grafana.build: {error}", file=sys.stderr)
        return 2
    stale = []
    for name, text in files.items():
        path = options.out / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{'differs' if options.check else 'written'}: {name}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
