"""Drive real servers with every shape of request and compare usage, their counters, and what is read of both.

``--write FILE`` replaces the tables between the marks in that file. Needs a download of 2.3 GB for vLLM.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from conformance.shapes import Shape, Tokens, send, shapes_of_llamacpp, shapes_of_vllm
from support import realparts
from support.readings import totals_by_role
from support.servers import Child, free_port, http_get
from tpw import hook
from tpw.model import Role
from tpw.tokens.dialects import Dialect
from tpw.tokens.engines import LLAMACPP, TPW_HOOK, VLLM
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader

BEGIN, END = "<!-- Written by `make conformance`. -->", "<!-- End of what `make conformance` writes. -->"
SETTLED_READS = 3


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where requests go, its page, and the page of the counter around it."""

    title: str
    row: Dialect
    port: int
    page: str
    hook_page: str
    shapes: list[Shape]


@contextmanager
def vllm() -> Iterator[Server]:
    """vLLM with the middleware in it."""
    port, part = free_port(), realparts.vllm()
    with tempfile.TemporaryDirectory() as packages, ExitStack() as stack:
        package = Path(packages) / "tpw"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "hook").symlink_to(Path(hook.__file__).parent)
        flags = ("--enable-prompt-tokens-details", "--middleware", "tpw.hook.TokenCounter")
        child = Child("conformance-vllm", part.command(port, *flags), {**part.environment(), "PYTHONPATH": packages})
        stack.callback(lambda: child.stop(timeout=30))
        child.wait_ready(f"http://127.0.0.1:{port}/health", timeout=300)
        version = re.search(r'"version":\s*"([^"]+)', http_get(f"http://127.0.0.1:{port}/version").decode())
        title = f"vLLM {version[1] if version else ''}, middleware in it"
        yield Server(title, VLLM, port, f":{port}/metrics", f":{port}/tpw/metrics", shapes_of_vllm())


@contextmanager
def llamacpp() -> Iterator[Server]:
    """llama-server behind the proxy."""
    port, behind, part = free_port(), free_port(), realparts.llama_server()
    with ExitStack() as stack:
        child = Child("conformance-llama", part.command(behind), part.environment())
        stack.callback(lambda: child.stop(timeout=10))
        child.wait_ready(f"http://127.0.0.1:{behind}/health", timeout=120)
        flags = (f"--upstream=http://127.0.0.1:{behind}", f"--web.listen-address=127.0.0.1:{port}")
        proxy = Child("conformance-proxy", [sys.executable, "-m", "tpw", "proxy", *flags])
        stack.callback(lambda: proxy.stop(timeout=10))
        proxy.wait_ready(f"http://127.0.0.1:{port}/tpw/metrics", timeout=30)
        build = re.search(r'"build_info":\s*"([^"]+)', http_get(f"http://127.0.0.1:{behind}/props").decode())
        title = f"llama-server {build[1] if build else ''}, behind the proxy"
        yield Server(title, LLAMACPP, port, f":{behind}/metrics", f":{port}/tpw/metrics", shapes_of_llamacpp())


SERVERS = {"llamacpp": llamacpp, "vllm": vllm}


def counted(row: Dialect, page: str) -> Tokens:
    """What the exporter reads from a page."""
    found = totals_by_role(DialectReader(row, lambda: "m").read(Page(http_get(f"http://127.0.0.1{page}"))).series)
    cached = found.get(Role.CACHED_INPUT, 0.0)
    entire = found.get(Role.PROMPT)
    return Tokens(
        found.get(Role.INPUT, 0.0) if entire is None else entire - cached, cached, found.get(Role.OUTPUT, 0.0)
    )


def settled(server: Server) -> tuple[Tokens, Tokens]:
    """Both pages, when they no longer move."""
    same, last = 0, None
    while same < SETTLED_READS:
        now = counted(server.row, server.page), counted(TPW_HOOK, server.hook_page)
        same, last = (same + 1 if now == last else 0), now
        time.sleep(0.1)
    assert last is not None
    return last


def rows(server: Server) -> Iterator[str]:
    """A row of each shape."""
    send(server.port, server.shapes[0])
    for shape in server.shapes:
        before = settled(server)
        answer = send(server.port, shape)
        if answer.status >= 400:
            yield f"| {shape.name} | `{shape.path}` | not supported ({answer.status}) | | | |"
            continue
        own, ours = (now - then for now, then in zip(settled(server), before, strict=True))
        usage = answer.usage()
        agree = "yes" if usage == own == ours else "usage and ours" if usage == ours else ""
        agree = agree or ("no usage" if usage is None else "**no**")
        yield f"| {shape.name} | `{shape.path}` | {usage or ''} | {own} | {ours} | {agree} |"


def names(server: Server) -> str:
    """Names on the page that may count tokens and are not read."""
    text = http_get(f"http://127.0.0.1{server.page}").decode()
    families = set(re.findall(r"^# TYPE (\S+) (?:counter|histogram)", text, re.MULTILINE))
    about = {name for name in families if "token" in name or "cache" in name}
    read = {prefix + one.name for prefix in server.row.prefixes for role in Role for one in server.row.candidates(role)}
    unread = sorted(about - read - {name.removesuffix("_total") for name in read})
    return ", ".join(f"`{name}`" for name in unread) or "none"


def table(server: Server) -> str:
    """The table of one server."""
    lines = [
        f"### {server.title}",
        "",
        "| request | path | usage | server's counters | ours from answers | agree |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows(server),
    ]
    return "\n".join([*lines, "", f"About tokens or caches on its page, and not read: {names(server)}.", ""])


def main() -> int:
    """Exit status 0, also if numbers differ: the tables show where."""
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("servers", nargs="*", help=f"of {', '.join(SERVERS)}; all of them by default")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this file")
    options = parser.parse_args()
    tables = []
    for name in options.servers or SERVERS:
        with SERVERS[name]() as server:
            tables.append(table(server))
            print(tables[-1], flush=True)
    if options.write:
        text = options.write.read_text()
        day = datetime.now(UTC).date()
        written = "\n".join(
            [BEGIN, "", f"Measured on {day}. Tokens are input / cached input / output.", "", *tables, END]
        )
        options.write.write_text(text[: text.index(BEGIN)] + written + text[text.index(END) + len(END) :])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
