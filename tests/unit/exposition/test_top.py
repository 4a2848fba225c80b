"""The table of ``top``: drawn from a status, fetched from a real server, shown on a pseudo-terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support.snapshots import empty_snapshot, fleet_snapshot, rich_snapshot
from tpw.cli.top import NoAnswerError, View, fetcher, once, plain, screen
from tpw.exposition.http1 import Request, Response
from tpw.exposition.render import Page
from tpw.exposition.serving import Server
from tpw.exposition.status import Status, status
from tpw.exposition.waste import Waste
from tpw.exposition.web import Web
from tpw.model import ServerWorkload, SourceError
from tpw.snapshot import Snapshot

URL = "http://127.0.0.1:10101"
GOLDEN = Path(__file__).parents[2] / "golden" / "exposition" / "top.txt"


def as_fetched(snapshot: Snapshot) -> Status:
    found: Status = json.loads(json.dumps(status(snapshot, Waste(1.86, 60.0))))
    return found


@contextmanager
def serving(handler: Callable[[Request], Response]) -> Iterator[str]:
    server = Server(["127.0.0.1:0"], handler)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.ports[0]}"
    finally:
        server.stop()


def test_the_table_of_a_rich_machine_is_the_golden_table():
    table = "\n".join(screen(as_fetched(rich_snapshot()), URL)) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(table, encoding="utf-8")
    assert table == GOLDEN.read_text(encoding="utf-8")


def test_an_empty_machine_has_hints():
    text = "\n".join(screen(as_fetched(empty_snapshot()), URL))
    for part in ("no tariff: no cost", "no inference server found", "no GPU found", "add `tariff:`"):
        assert part in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
@pytest.mark.parametrize("snapshot", [rich_snapshot, empty_snapshot, lambda: fleet_snapshot(16, 16)])
def test_no_line_is_wider_than_the_terminal(width: int, snapshot: Callable[[], Snapshot]):
    for colours in (False, True):
        lines = screen(as_fetched(snapshot()), URL, width=width, colours=colours)
        assert max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in lines) <= width


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_figures_of_the_headline_are_whole_at_every_width(width: int):
    """At 80 columns the unit of the cost was cut off; a figure moves to the next line instead."""
    head = "\n".join(screen(as_fetched(rich_snapshot()), URL, width=width)).partition("\n\n")[0]
    for figure in ("400 tok/s (600 with input)", "1,399 W", "0.301 tok/s per W", "0.898 EUR per 1M", "sources failing"):
        assert figure in head
    costs = [
        line for line in screen(as_fetched(rich_snapshot()), URL, width=width) if line.startswith(("SERVER", "chat"))
    ]
    assert ("EUR/1M" in costs[0], "0.898" in costs[1]) == (True, True)


def test_keys_sort_and_filter_the_servers():
    found, view = as_fetched(rich_snapshot()), View()

    def names() -> list[str]:
        lines = screen(found, URL, view=view)
        begin = next(number for number, line in enumerate(lines) if line.startswith("SERVER"))
        return [line.split(" ")[0] for line in lines[begin + 1 : lines.index("", begin)]]

    assert names() == ["chat", "code", "embed"]
    assert all(map(view.press, "sss"))
    assert names()[0] == "chat"
    assert screen(found, URL, view=view)[-1] == "q quit   s sort: cost per token   / filter: all"
    assert all(map(view.press, "/ACME/\r"))
    assert names() == ["chat", "embed"]
    assert all(map(view.press, "/q\x7f\x7f\x7f\x7f\x7f\x7fmbed\r"))
    assert names() == ["embed"]
    assert all(map(view.press, "/\x1b"))
    assert len(names()) == 3
    assert not view.press("q")


def test_a_key_shows_the_servers_of_one_namespace_after_another():
    owners = {"chat": ServerWorkload(namespace="team-b"), "embed": ServerWorkload(namespace="team-a")}
    found, view = as_fetched(replace(rich_snapshot(), owners=owners)), View()
    shown = []
    for _ in range(4):
        keys = screen(found, URL, width=100, view=view)[-1]
        shown.append((keys.partition("n namespace: ")[2], [server["name"] for server in view.chosen(found["servers"])]))
        assert view.press("n")
    assert shown == [("all", ["chat", "code", "embed"]), ("team-a", ["embed"]), ("team-b", ["chat"]), shown[0]]
    assert all(map(view.press, "/down\r"))
    assert [server["name"] for server in view.chosen(found["servers"])] == []
    view.namespace = ""
    assert [server["name"] for server in view.chosen(found["servers"])] == ["code"]


def test_the_rate_of_the_last_refreshes_is_a_curve(monkeypatch: pytest.MonkeyPatch):
    view = View()
    view.rates.extend((0.0, 200.0, 400.0))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert "with input) \u2581\u2585\u2588" in screen(as_fetched(rich_snapshot()), URL, view=view)[1]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert all(line.isascii() for line in screen(as_fetched(rich_snapshot()), URL, view=view)[1:2])


def test_a_low_terminal_shows_how_many_lines_are_hidden():
    lines = screen(as_fetched(fleet_snapshot(16, 16)), URL, height=20)
    assert len(lines) == 20
    assert lines[-1] == "... 20 more lines: make the window taller"


def test_colours_change_nothing_but_colours():
    found = as_fetched(rich_snapshot())
    stripped = [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in screen(found, URL, colours=True)]
    assert stripped == screen(found, URL)


def test_external_texts_cannot_move_the_cursor():
    evil = "\x1b[2J\x9b31m\r\n\u202eabc"
    snapshot = rich_snapshot()
    account = replace(snapshot.books.servers["chat"], name=evil, models=(evil,))
    snapshot = replace(snapshot, books=replace(snapshot.books, servers={evil: account}), notes=(evil,))
    for line in screen(as_fetched(snapshot), URL + evil):
        assert line.isprintable()
    assert plain(evil) == "?[2J?31m???abc"


# ------------------------------------------------------------------------------------------------------------ fetching


def test_the_status_of_a_daemon_is_fetched(capsys: pytest.CaptureFixture[str]):
    with serving(Web(rich_snapshot, Page())) as url:
        assert once(url, fetcher(url)) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"tpw-exporter  {url}  02:00:00 UTC")
    assert "\x1b" not in out


def test_without_a_daemon_the_error_has_a_hint(capsys: pytest.CaptureFixture[str]):
    with serving(Web(rich_snapshot, Page())) as url:
        pass
    assert once(url, fetcher(url)) == 1
    assert "Is the daemon running?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Response(b"unauthorized\n", 401), "--headers-file"),
        (Response(b"no\n", 404), "HTTP 404"),
        (Response(b"<html>"), "Is it a tpw-exporter"),
        (Response(b"[]"), "Is it a tpw-exporter"),
    ],
)
def test_an_answer_that_is_no_status_is_an_error(answer: Response, words: str):
    with serving(lambda request: answer) as url, pytest.raises(NoAnswerError, match=words):
        fetcher(url)()


def test_headers_are_sent_from_a_file(tmp_path: Path):
    file = tmp_path / "headers"
    file.write_text("Authorization: Basic abc\n\nX-Other: a: b\n")
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        return Web(rich_snapshot, Page())(request)

    with serving(handler) as url:
        fetcher(url + "/", headers_file=str(file))()
    assert seen[0].path == "/api/v1/status"
    assert (seen[0].headers["authorization"], seen[0].headers["x-other"]) == ("Basic abc", "a: b")


def test_invalid_addresses_and_files_are_errors(tmp_path: Path):
    with pytest.raises(ValueError, match="not an http or https address"):
        fetcher("file:///etc/passwd")
    file = tmp_path / "headers"
    file.write_text("a line that is not a header\n")
    with pytest.raises(SourceError, match="line 1 is not"):
        fetcher(URL, headers_file=str(file))
    with pytest.raises(SourceError, match="gone"):
        fetcher(URL, headers_file=str(tmp_path / "gone"))


# -------------------------------------------------------------------------------------------------- the command itself


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tpw", "top", *arguments]


def test_once_prints_the_table_and_exits():
    with serving(Web(rich_snapshot, Page())) as url:
        done = subprocess.run(command("--once", "--url", url), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[6].startswith("chat      active  acme/chat-70b")


def test_the_default_address_is_the_listen_address_of_the_configuration():
    with serving(Web(rich_snapshot, Page())) as url:
        listen = url.replace("http://127.0.0.1", "")
        done = subprocess.run(
            command("--once", f"--web.listen-address={listen}"), capture_output=True, text=True, timeout=60, check=False
        )
    assert done.stdout.startswith(f"tpw-exporter  {url}")


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the end of the user, and the end of the program."""
    ends = pty.openpty()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "signal.signal(signal.SIGINT, getattr(signal, sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
)
"""Makes standard input the controlling terminal, so that Ctrl-C sends SIGINT, and executes a command.

The first argument is how SIGINT is handled before the command starts: SIG_DFL, or SIG_IGN as in a job started with `&` by a
non-interactive shell.
"""


@pytest.mark.parametrize(
    ("end", "interrupt"),
    [("q", "SIG_DFL"), ("\x03", "SIG_DFL"), ("\x03", "SIG_IGN"), ("TERM", "SIG_DFL"), ("TERM", "SIG_IGN")],
)
def test_it_redraws_until_it_is_ended_and_restores_the_terminal(end: str, interrupt: str):
    out = b""
    with serving(Web(rich_snapshot, Page())) as url, terminal() as (screen_end, child_end):
        child = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, interrupt, *command("--url", url, "--interval", "0.1")],
            stdin=child_end,
            stdout=child_end,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
        )
        ended = False
        while b"\x1b[?1049l" not in out:
            ready, _, _ = select.select([screen_end], [], [], 60)
            assert ready, out
            out += os.read(screen_end, 65536)
            if not ended and out.count(b"\x1b[H") >= 3:
                ended = True
                if end == "TERM":
                    child.terminate()
                else:
                    os.write(screen_end, end.encode())
        assert child.wait(60) == 0
    assert out.startswith(b"\x1b[?1049h\x1b[?25l")
    assert out.endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"acme/chat-70b" in out
