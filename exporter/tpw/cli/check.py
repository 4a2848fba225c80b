"""``tpw-exporter check``: every problem of a configuration, with file, line and key path."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tpw.cli import Setting
from tpw.cli.configuration import print_problems
from tpw.config.load import load_file
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.daemon.sources import known_names
from tpw.tariff.context import FeedContext
from tpw.tariff.settings import CHARGES, Tariff
from tpw.tariff.urdb_fields import SAMPLE_KW


def options(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="Files, or directories of *.yaml; default: --config.file."
    )


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0 when all files are valid and electricity has a price where it is configured, else 2."""
    named = arguments.paths or ([Path(setting.config_file)] if setting.config_file else [])
    paths: list[Path | None] = [path for name in named for path in _files(name)]
    if named and not paths:
        print("no *.yaml files found: " + ", ".join(map(str, named)), file=sys.stderr)
        return 2
    wrong: list[int] = []
    for path in paths or [None]:
        try:
            config = load_file(path, overrides=setting.overrides, known=known_names())
        except ConfigError as error:
            print_problems(error)
            wrong.append(len(error.problems))
        else:
            unpriced = list(config.tariff.without_price(FeedContext()))
            if unpriced:
                wrong.append(len(unpriced))
            else:
                print(f"{path or 'no file: the defaults'}: valid")
            for problem in unpriced:
                print(f"{path}: no price: {problem}", file=sys.stderr)
            notes = list(config.tariff.notes())
            if config.tariff.energy and config.tariff.is_local and not unpriced:
                notes.append(_sample(config.tariff))
            notes += config.costs.notes(
                has_energy_price=bool(config.tariff.energy), has_references=bool(config.references)
            )
            notes += _site_notes(config)
            for note in notes:
                print(f"{path}: note: {note}")
    if len(paths) > 1:
        sys.stdout.flush()
        tally = "all valid" if not wrong else f"{len(wrong)} not valid, with {sum(wrong)} problems"
        print(f"{len(paths)} files: {tally}", file=sys.stderr)
    return 2 if wrong else 0


def _sample(tariff: Tariff) -> str:
    """The bill of a constant load for this billing month: a price in the wrong unit shows."""
    from tpw.billing.bill import bill
    from tpw.billing.curve import Load

    start, end = tariff.months().bounds(time.time())
    load = Load(start, end, SAMPLE_KW * 1000.0 * (end - start))
    found = bill(tariff, (load,), start, end, FeedContext(clock=lambda: start))
    parts = ", ".join(
        f"{section} {found.of(section):,.2f}" for section in dict.fromkeys(line.section for line in found.lines)
    )
    lacking = f"; {found.unpriced_kwh:,.0f} kWh without a price" if found.unpriced_kwh else ""
    return (
        f"tariff: {SAMPLE_KW:g} kW for this billing month cost {found.total:,.2f} {found.currency} ({parts}){lacking}"
    )


def _site_notes(config: Config) -> list[str]:
    """Which part of the contract's charges a node books."""
    if config.site is not None:
        return [config.site.sentence()]
    charges = [name for name in CHARGES if getattr(config.tariff, name)]
    if not charges:
        return []
    names = ", ".join(charges)
    note = f"tariff: {names}: every exporter with this file books all of it. If several nodes have it, add `site`;"
    return [f"{note} in Kubernetes these charges are not booked without it"]


def _files(path: Path) -> list[Path]:
    return sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
