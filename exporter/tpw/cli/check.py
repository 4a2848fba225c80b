"""``tpw-exporter check``: every problem of a configuration, with file, line and key path."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tpw import assembly
from tpw.cli import Setting
from tpw.cli.configuration import print_problems
from tpw.config.load import load_file
from tpw.config.problems import ConfigError, Problem
from tpw.config.schema import Config


def options(parser: argparse.ArgumentParser) -> None:
    """What else it takes."""
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="Files, or directories of *.yaml; default: --config.file."
    )


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0 when all files are valid, else 2."""
    named = arguments.paths or ([Path(setting.config_file)] if setting.config_file else [])
    paths: list[Path | None] = [path for name in named for path in _files(name)]
    if named and not paths:
        print("no *.yaml there: " + ", ".join(map(str, named)), file=sys.stderr)
        return 2
    status = 0
    for path in paths or [None]:
        try:
            config = load_file(path, overrides=setting.overrides, known=assembly.known_names())
            _try(path, config)
        except ConfigError as error:
            print_problems(error)
            status = 2
        else:
            print(f"{path or 'no file: the defaults'}: valid")
    return status


def _try(path: Path | None, config: Config) -> None:
    """What only the rooms themselves can tell: options of meters, dialects of the user's."""
    try:
        assembly.examine(config)
    except ValueError as error:
        raise ConfigError([Problem(str(path), 0, 0, "", str(error))]) from error


def _files(path: Path) -> list[Path]:
    return sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
