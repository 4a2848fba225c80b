"""Which engine a process belongs to, by its name. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tpw.discovery.engines import Engine
from tpw.discovery.procfs import Process

COMM_LENGTH = 15
"""The kernel truncates ``comm`` to this length."""

_DIGEST_LENGTH = 12
"""Digits of a digest that Ollama shows."""

_INTERPRETER = re.compile(r"(python|pypy)[0-9.]*\Z|ld-(linux|musl)[^/]*\.so(\.[0-9]+)*\Z|ld\.so\Z")
"""The dynamic loader too: a program may be started through its own loader."""
_OPTIONS_WITH_VALUE = ("-X", "-W", "--library-path", "--preload", "--argv0", "--audit")

_PORT_OPTION = re.compile(r"port|listen|bind|host|addr|url|\A-[pb]\Z", re.IGNORECASE)
_OTHER_PORT = re.compile(r"master|rdzv|rendezvous|dist|nccl|rpc|kv|bootstrap|init|zmq|grpc|debug|report", re.IGNORECASE)

_PORT_VARIABLES = (
    "PORT",
    "HTTP_PORT",
    "METRICS_PORT",
    "PROMETHEUS_PORT",
    "UVICORN_PORT",
    "DYN_SYSTEM_PORT",
    "DYN_HTTP_PORT",
    "VLLM_PORT",
    "SGLANG_PORT",
    "LLAMA_ARG_PORT",
    "OLLAMA_HOST",
    "NIM_SERVER_PORT",
    "NIM_HTTP_API_PORT",
    "AIP_HTTP_PORT",
    "SM_HTTP_PORT",
)
"""Variables by which engines and platforms set the port of a server."""

# Climbing stops at these: they start unrelated processes.
_STARTERS = frozenset(
    name[:COMM_LENGTH]
    for name in (
        *(
            "init",
            "systemd",
            "docker-init",
            "tini",
            "dumb-init",
            "catatonit",
            "supervisord",
            "s6-supervise",
            "s6-svscan",
        ),
        *("runsv", "runsvdir", "runit", "openrc-run", "start-stop-daemon", "monit", "pm2", "watchdog"),
        *(
            "containerd-shim",
            "containerd-shim-runc-v2",
            "conmon",
            "dockerd",
            "containerd",
            "crio",
            "podman",
            "runc",
            "kubelet",
        ),
        *("bash", "sh", "dash", "ash", "zsh", "fish", "ksh", "tcsh", "busybox", "login", "sshd", "sudo", "su", "doas"),
        *("tmux", "tmux: server", "screen", "SCREEN", "script", "cron", "crond", "atd", "slurmstepd", "slurmd"),
        *(
            "raylet",
            "make",
            "timeout",
            "watch",
            "xargs",
            "parallel",
            "entr",
            "nohup",
            "setsid",
            "time",
            "strace",
            "gdb",
        ),
    )
)


def is_starter(process: Process) -> bool:
    """Whether a process starts unrelated processes: an init, a shell, a container shim, a supervisor."""
    return process.pid == 1 or process.comm in _STARTERS or process.comm.startswith(("tmux", "sshd", "systemd"))


def listens_as(process: Process, dialects: Sequence[Engine]) -> tuple[Engine, ...]:
    """Engines that have a listener of this name."""
    return tuple(dialect for dialect in dialects if _has_name(process, dialect.processes.listener))


def computes_as(process: Process, dialects: Sequence[Engine]) -> bool:
    """Whether it has the name of an engine's GPU process and of no engine's listener: its sockets are internal."""
    return any(_has_name(process, dialect.processes.gpu) for dialect in dialects) and not listens_as(process, dialects)


def heads(argv: Sequence[str]) -> tuple[str, ...]:
    """What a command line runs: base names of its program, and of the script or module run by an interpreter."""
    found: list[str] = []
    words = list(argv)
    while words:
        program = words.pop(0).rpartition("/")[2]
        found.append(program)
        if program == "uv" and words[:1] == ["run"]:
            words.pop(0)
        elif not _INTERPRETER.match(program):
            break
        while words and words[0].startswith("-"):
            option = words.pop(0)
            if option == "-m":
                return (*found, *words[:1])
            if option == "-c":
                return tuple(found)
            if option in _OPTIONS_WITH_VALUE:
                del words[:1]
    return tuple(found)


def ports_named(argv: Sequence[str]) -> frozenset[int]:
    """Ports to listen on in a command line: ``--port 8000``, ``--port=8000``, ``--listen 0.0.0.0:8000``.

    Not those of a rendezvous or of another protocol (``--master-port``, ``--data-parallel-rpc-port``).
    """
    found = set()
    option = ""
    for word in argv:
        value = word
        if word.startswith("-"):
            option, _, value = word.partition("=")
        if _PORT_OPTION.search(option) and not _OTHER_PORT.search(option):
            tail = value.rpartition(":")[2]
            if tail.isdecimal() and 0 < int(tail) < 65536:
                found.add(int(tail))
    return frozenset(found)


def ports_set(environment: Mapping[str, str]) -> frozenset[int]:
    """Ports to listen on in the environment of an engine: ``DYN_SYSTEM_PORT=8082``, ``OLLAMA_HOST=0.0.0.0:11434``."""
    tails = (environment.get(name, "").rpartition(":")[2] for name in _PORT_VARIABLES)
    return frozenset(int(tail) for tail in tails if tail.isdecimal() and 0 < int(tail) < 65536)


def model_named(argv: Sequence[str]) -> str:
    """The short name of the model in a command line; "" if it has none. llama-server's options: ``--alias`` (the first of
    several), or the name of the file of ``--model``, which is a digest with Ollama."""
    options: dict[str, str] = {}
    for word, after in zip(argv, (*argv[1:], ""), strict=True):
        name, equals, value = word.partition("=")
        options.setdefault(name, value if equals else after)
    alias = options.get("--alias") or options.get("-a") or ""
    file = (options.get("--model") or options.get("-m") or "").rpartition("/")[2].removesuffix(".gguf")
    digest = file.removeprefix("sha256-")
    return alias.partition(",")[0] or (file if digest == file else digest[:_DIGEST_LENGTH])


def _has_name(process: Process, patterns: Sequence[str]) -> bool:
    if not patterns:
        return False
    names = heads(process.argv)
    title = process.argv[0] if process.argv else process.comm
    return any(
        _has_title(process, title, pattern) if "::" in pattern else _runs(process, names, pattern)
        for pattern in patterns
    )


def _has_title(process: Process, title: str, pattern: str) -> bool:
    """Titles that processes set for themselves; the rest of a title is the rank."""
    return title.startswith(pattern) or _same_cut(process.comm, pattern)


def _runs(process: Process, names: Sequence[str], pattern: str) -> bool:
    """A program, a script, a module or its submodule; without a command line, the kernel's name."""
    if not process.argv:
        return process.comm == pattern[:COMM_LENGTH]
    return any(name == pattern or name.startswith(pattern + ".") for name in names)


def _same_cut(comm: str, pattern: str) -> bool:
    return comm.startswith(pattern) or (len(comm) >= COMM_LENGTH and comm == pattern[:COMM_LENGTH])
