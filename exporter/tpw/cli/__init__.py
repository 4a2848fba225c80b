"""The command line. One file per command; each is imported only when it is called.

Flags follow the Prometheus family: dotted names, also as environment variables. A flag beats the environment, which beats
the file, which beats the default. Exit status: 0 after SIGTERM or SIGINT and when a command is done, 1 when the daemon
cannot go on, 2 on a usage or configuration error.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from tpw import __version__
from tpw.config.flags import Override, environment_name, flags, overrides

_CONFIG_FLAG = "config.file"


@dataclass(frozen=True, slots=True)
class Command:
    """One command: ``module`` has ``run(arguments, setting) -> exit status`` and may have ``options(parser)``."""

    name: str
    module: str
    summary: str


COMMANDS = (
    Command("run", "tpw.cli.run", "the daemon (the default)"),
    Command("check", "tpw.cli.check", "validate the configuration and print every problem in it"),
    Command("probe", "tpw.cli.probe", "one look at this machine: GPUs, meters, servers, who owns what, the price now"),
    Command("demo", "tpw.cli.demo", "the real pipeline over simulated GPUs and a simulated server"),
    Command("top", "tpw.cli.top", "a live table of a running daemon"),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What the command line and the environment say about the configuration."""

    config_file: str | None
    overrides: tuple[Override, ...]


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("settings", "Each is an environment variable too: --log.level is TPW_LOG_LEVEL.")
    group.add_argument(
        f"--{_CONFIG_FLAG}",
        metavar="FILE",
        default=None,
        help="The configuration file (YAML). Without one, the defaults.",
    )
    for flag in flags():
        default = "" if flag.default is None else f" Default: {flag.default}."
        group.add_argument(
            f"--{flag.name}",
            dest=flag.name,
            metavar="VALUE",
            default=None,
            help=(flag.help + default).replace("%", "%%"),
        )
    parser = argparse.ArgumentParser(
        prog="tpw-exporter",
        description="Tokens per watt and cost per token of inference servers, for Prometheus.",
        epilog="Without a command: run. `tpw-exporter COMMAND --help` tells the options of one.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"tpw-exporter {__version__} (Python {platform.python_version()})"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        added = commands.add_parser(
            command.name,
            parents=[shared],
            help=command.summary,
            description=command.summary.capitalize() + ".",
            allow_abbrev=False,
        )
        module = import_module(command.module) if command.name == words[0] else None
        options: Callable[[argparse.ArgumentParser], None] | None = getattr(module, "options", None)
        if options is not None:
            options(added)
    return parser


def _command_first(argv: Sequence[str]) -> list[str]:
    """The command may stand anywhere, or nowhere: then it is ``run``."""
    names = {command.name for command in COMMANDS}
    valued = {f"--{flag.name}" for flag in flags()} | {f"--{_CONFIG_FLAG}"}
    for position, word in enumerate(argv):
        if word in names and not (position and argv[position - 1] in valued):
            return [word, *argv[:position], *argv[position + 1 :]]
    if argv and argv[0] in {"-h", "--help", "--version"}:
        return list(argv)
    return ["run", *argv]


def setting_of(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Setting:
    """What was said beyond the file, and which file."""
    given = {flag.name: getattr(arguments, flag.name) for flag in flags()}
    config_file = getattr(arguments, _CONFIG_FLAG) or environment.get(environment_name(_CONFIG_FLAG)) or None
    return Setting(config_file, overrides(given, environment))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status."""
    words = _command_first(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words).parse_args(words)
    command = next(command for command in COMMANDS if command.name == arguments.command)
    run: Callable[[argparse.Namespace, Setting], int] = import_module(command.module).run
    return run(arguments, setting_of(arguments, os.environ))
