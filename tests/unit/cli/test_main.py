"""Commands, flags and their errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tpw.cli import Setting, main
from tpw.config.load import load


@pytest.mark.parametrize(
    ("words", "command", "message"),
    [
        (
            ["--web.listen-adress=:1"],
            "run",
            "unknown argument `--web.listen-adress=:1`; did you mean `--web.listen-address`?",
        ),
        (["prbe"], "run", "unknown argument `prbe`; did you mean `probe`?"),
        (["check", "--nope"], "check", "unknown argument `--nope`"),
    ],
)
def test_the_error_for_an_unknown_argument_has_the_command_and_the_nearest_flag(
    words: list[str], command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"tpw-exporter: error: {command}: {message}; see tpw-exporter {command} --help"
    )


def test_the_daemon_does_not_load_what_only_other_commands_need() -> None:
    """It would cost memory on every node."""
    script = (
        "import sys, tpw.cli.run, tpw.cli.serving; print(*{'psutil', 'difflib', 'urllib.request'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert loaded.split() == []


def test_the_daemon_does_not_load_what_its_libraries_need_for_others() -> None:
    """asyncio and OpenSSL are a sixth of its memory."""
    script = (
        "import sys, tpw.cli; tpw.cli.main(['run', '--config.file=/none'])\n"
        "import tpw.daemon.daemon, tpw.exposition.web, tpw.power.nvml, tpw.store.sqlite, tpw.tokens.scrape\n"
        "print(*{'asyncio.events', '_ssl', '_hashlib', 'bcrypt'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert loaded.split() == []


THREADS = """
import ssl, threading
from concurrent.futures import ThreadPoolExecutor
first = threading.Barrier(8)
def use(_):
    first.wait()
    return ssl.create_default_context().check_hostname
with ThreadPoolExecutor(8) as threads:
    print(sum(threads.map(use, range(8))) - 1)
"""


@pytest.mark.parametrize(
    "use",
    [
        "import asyncio; print(asyncio.run(asyncio.sleep(0, 7)))",
        "from asyncio import Queue; print(7)",
        "import asyncio; asyncio.Queue; import asyncio.subprocess; print(7 if asyncio.subprocess.PIPE else 0)",
        "import ssl; print(7 if ssl.create_default_context().check_hostname else 0)",
        "from ssl import SSLContext; import ssl; print(7 if ssl.SSLContext is SSLContext else 0)",
        "import ssl, http.client; http.client.HTTPSConnection('localhost'); print(7)",
        "import urllib.request; print(7)",
        "import asyncio\ntry: asyncio.no_such_name\nexcept AttributeError: print(7)",
        # A submodule first of all, as a library may: it is loaded once, and is the package's own.
        "import asyncio.events as it, asyncio; print(7 if it is asyncio.events is asyncio.base_events.events else 0)",
        "from asyncio.events import get_event_loop as it; import asyncio; print(7 if asyncio.get_event_loop is it else 0)",
        "import asyncio.events, importlib; print(7 if importlib.reload(asyncio.events) is asyncio.events else 0)",
        "from importlib.util import find_spec; print(7 if find_spec('ssl').origin and find_spec('asyncio.events') else 0)",
        "from ssl import *; print(7 if SSLContext else 0)",
        # What one sets in it, all see.
        "import http.client, ssl; ssl.SSLContext; import ssl as it; print(7 if it is ssl is http.client.ssl else 0)",
        "import inspect, unittest.mock; inspect.getmodule(inspect); print(7)",
        THREADS,
    ],
)
def test_a_postponed_module_is_the_real_one_when_it_is_used(use: str) -> None:
    script = f"from tpw.cli.postponed import postpone; postpone(); import structlog, tpw.daemon.jobs\n{use}"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "7\n"


@pytest.mark.parametrize(
    ("words", "path", "enabled"),
    [
        ([], "", False),
        (["--web.enable-lifecycle"], "", True),
        (["--web.enable-lifecycle=false"], "", False),
        (["--web.enable-lifecycle", "run"], "", True),
        (["--web.enable-lifecycle", "--config.file=x"], "x", True),
    ],
)
def test_a_switch_needs_no_value(words: list[str], path: str, enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Setting] = []
    monkeypatch.setattr("tpw.cli.run.run", lambda arguments, setting: given.append(setting) or 0)

    assert main(words) == 0
    assert (given[0].config_file or "") == path
    assert load("", overrides=given[0].overrides).web.enable_lifecycle is enabled
