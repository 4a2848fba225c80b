"""The command line: one module per command, imported only when it is called.

Flags follow the Prometheus convention: dotted names, each also an environment variable. Precedence: flag, environment,
file, default. Exit status: 0 when a command is done and after SIGTERM or SIGINT, 1 on failure, 2 on a usage or
configuration error.
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
from tpw.cli.postponed import postpone
from tpw.config.flags import Override, environment_name, flags, overrides
from tpw.settings.words import did_you_mean

_CONFIG_FLAG = "config.file"


@dataclass(frozen=True, slots=True)
class Command:
    """One command. ``module`` has ``run(arguments, setting) -> exit status`` and optionally ``options(parser)``.

    It can also have ``FLAGS``: the settings it accepts, with its own defaults; it then reads no configuration file.
    """

    name: str
    module: str
    summary: str


COMMANDS = (
    Command("run", "tpw.cli.run", "run the daemon (the default)"),
    Command("check", "tpw.cli.check", "validate the configuration and print every problem"),
    Command(
        "probe", "tpw.cli.probe", "read this machine once: GPUs, meters, servers, who owns which GPU, the price now"
    ),
    Command("demo", "tpw.cli.demo", "run on simulated GPUs and servers, without configuration or hardware"),
    Command("top", "tpw.cli.top", "show a live table of a running daemon"),
    Command(
        "prices", "tpw.cli.prices", "show known prices ahead, and the cheapest and cleanest hours before a deadline"
    ),
    Command("report", "tpw.cli.report", "report tokens, energy and cost from the books: table, CSV, JSON, FOCUS"),
    Command("bill", "tpw.cli.bill", "price a load curve or the books under a tariff, line by line, and under others"),
    Command("advise", "tpw.cli.advise", "what would save money, how much, and how, from the books of at least a week"),
    Command("books", "tpw.cli.books", "show, verify, back up and correct the books; forget a server that is gone"),
    Command("measure", "tpw.cli.measure", "account for one run, or for a server at rising concurrency"),
    Command("proxy", "tpw.cli.proxy", "run a reverse proxy that counts the tokens of a server without metrics"),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """The configuration file, and what the command line and the environment set in its place."""

    config_file: str | None
    overrides: tuple[Override, ...]


def _shared(own: Mapping[str, str] | None) -> argparse.ArgumentParser:
    """The settings a command accepts: all, or those of ``own`` with its defaults ("" is the usual default)."""
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group(
        "settings", "Each can be set by an environment variable: --log.level is TPW_LOG_LEVEL."
    )
    if own is None:
        group.add_argument(
            f"--{_CONFIG_FLAG}",
            metavar="FILE",
            default=None,
            help="Configuration file (YAML). Default: none; all settings have defaults.",
        )
    for flag in flags():
        if own is not None and flag.name not in own:
            continue
        default = (own or {}).get(flag.name) or flag.default or None
        group.add_argument(
            f"--{flag.name}",
            dest=flag.name,
            metavar="VALUE",
            nargs="?" if flag.is_switch else None,
            default=None,
            help=(flag.help + ("" if default is None else f" Default: {default}.")).replace("%", "%%"),
        )
    return shared


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpw-exporter",
        description="Tokens per watt and cost per token of inference servers, for Prometheus.",
        epilog="The default command is run. `tpw-exporter COMMAND --help` lists the options of a command.",
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
    """The arguments with the command first. It can be in any position; the default is ``run``. A switch without a value
    is true."""
    switches = {f"--{flag.name}" for flag in flags() if flag.is_switch}
    argv = [f"{word}=true" if word in switches else word for word in argv]
    names = {command.name for command in COMMANDS}
    valued = {f"--{flag.name}" for flag in flags()} | {f"--{_CONFIG_FLAG}"}
    for position, word in enumerate(argv):
        if word in names and not (position and argv[position - 1] in valued):
            return [word, *argv[:position], *argv[position + 1 :]]
    if argv and argv[0] in {"-h", "--help", "--version"}:
        return list(argv)
    return ["run", *argv]


def setting_of(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Setting:
    """The configuration file, and the overrides of the settings that the command accepts."""
    given = vars(arguments)
    accepted = [flag for flag in flags() if flag.name in given]
    paths = {flag.path for flag in accepted}
    config_file = given.get(_CONFIG_FLAG) or environment.get(environment_name(_CONFIG_FLAG)) or None
    found = overrides({flag.name: given[flag.name] for flag in accepted}, environment)
    return Setting(config_file, tuple(override for override in found if override.path in paths))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status."""
    words = _command_first(sys.argv[1:] if argv is None else argv)
    if words[0] == "run":
        postpone()
    parser = _parser(words)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(_unknown(unknown[0], arguments))
    command = next(command for command in COMMANDS if command.name == arguments.command)
    run: Callable[[argparse.Namespace, Setting], int] = import_module(command.module).run
    return run(arguments, setting_of(arguments, os.environ))


def _unknown(word: str, arguments: argparse.Namespace) -> str:
    """The error message for an argument that the command does not accept."""
    command, flag = arguments.command, word.partition("=")[0]
    if flag in {f"--{_CONFIG_FLAG}", *(f"--{flag.name}" for flag in flags())}:
        return f"{command} does not accept `{flag}`; see tpw-exporter {command} --help"
    known = [*(f"--{name}" for name in vars(arguments) if name != "command"), *(row.name for row in COMMANDS)]
    return f"{command}: unknown argument `{word}`{did_you_mean(flag, known)}; see tpw-exporter {command} --help"
