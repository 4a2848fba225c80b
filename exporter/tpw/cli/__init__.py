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
from tpw.config.problems import did_you_mean

_CONFIG_FLAG = "config.file"


@dataclass(frozen=True, slots=True)
class Command:
    """One command: ``module`` has ``run(arguments, setting) -> exit status`` and may have ``options(parser)``.

    It may also have ``FLAGS``: those of the settings it takes, with defaults of its own; it then reads no file.
    """

    name: str
    module: str
    summary: str


COMMANDS = (
    Command("run", "tpw.cli.run", "the daemon (the default)"),
    Command("check", "tpw.cli.check", "validate the configuration and print every problem in it"),
    Command("probe", "tpw.cli.probe", "one look at this machine: GPUs, meters, servers, who owns what, the price now"),
    Command(
        "demo", "tpw.cli.demo", "the real pipeline over simulated GPUs and servers, without configuration or hardware"
    ),
    Command("top", "tpw.cli.top", "a live table of a running daemon"),
    Command("report", "tpw.cli.report", "tokens, energy and money by day, server and model; table, CSV, JSON, FOCUS"),
    Command("proxy", "tpw.cli.proxy", "a reverse proxy that counts tokens, before a server that publishes no counters"),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What the command line and the environment say about the configuration."""

    config_file: str | None
    overrides: tuple[Override, ...]


def _shared(own: Mapping[str, str] | None) -> argparse.ArgumentParser:
    """The settings a command takes: all, or ``own`` with their own defaults ("" is the usual one)."""
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("settings", "Each is an environment variable too: --log.level is TPW_LOG_LEVEL.")
    if own is None:
        group.add_argument(
            f"--{_CONFIG_FLAG}",
            metavar="FILE",
            default=None,
            help="The configuration file (YAML). Without one, the defaults.",
        )
    for flag in flags():
        if own is not None and flag.name not in own:
            continue
        default = (own or {}).get(flag.name) or flag.default
        group.add_argument(
            f"--{flag.name}",
            dest=flag.name,
            metavar="VALUE",
            default=None,
            help=(flag.help + ("" if default is None else f" Default: {default}.")).replace("%", "%%"),
        )
    return shared


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
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
        module = import_module(command.module) if command.name == words[0] else None
        added = commands.add_parser(
            command.name,
            parents=[_shared(getattr(module, "FLAGS", None))],
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            allow_abbrev=False,
        )
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
    given = vars(arguments)
    taken = [flag for flag in flags() if flag.name in given]
    config_file = given.get(_CONFIG_FLAG) or environment.get(environment_name(_CONFIG_FLAG)) or None
    said = overrides({flag.name: given[flag.name] for flag in taken}, environment)
    return Setting(config_file, tuple(each for each in said if each.path in {flag.path for flag in taken}))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status."""
    words = _command_first(sys.argv[1:] if argv is None else argv)
    parser = _parser(words)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(_not_understood(unknown[0], arguments))
    command = next(command for command in COMMANDS if command.name == arguments.command)
    run: Callable[[argparse.Namespace, Setting], int] = import_module(command.module).run
    return run(arguments, setting_of(arguments, os.environ))


def _not_understood(word: str, arguments: argparse.Namespace) -> str:
    """What is said of a word that the command does not know."""
    flag = word.partition("=")[0]
    if flag in {f"--{_CONFIG_FLAG}", *(f"--{flag.name}" for flag in flags())}:
        return f"{arguments.command} does not take `{flag}`; see tpw-exporter {arguments.command} --help"
    known = [*(f"--{name}" for name in vars(arguments) if name != "command"), *(command.name for command in COMMANDS)]
    meant = did_you_mean(flag, known)
    return f"{arguments.command}: `{word}` is not understood{meant}; see tpw-exporter {arguments.command} --help"
