"""Drive real servers with every shape of request and compare usage, their counters, and what is read of both.

``--write FILE`` replaces the tables between the marks in that file. Needs a download of 2.3 GB for vLLM.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from conformance.servers import SERVERS, Server
from conformance.shapes import Tokens
from support.readings import totals_by_role
from support.servers import http_get
from tpw.model import KvTransfer, Role
from tpw.tokens.dialects import Dialect
from tpw.tokens.engines import TPW_HOOK
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader

BEGIN, END = "<!-- Written by `make conformance`. -->", "<!-- End of what `make conformance` writes. -->"
SETTLED_READS = 3


def counted(row: Dialect, page: str, transfer: KvTransfer) -> Tokens:
    """What the exporter reads from a page."""
    found = totals_by_role(DialectReader(row, lambda: "m").read(Page(http_get(page)), transfer).series)
    cached = found.get(Role.CACHED_INPUT, 0.0)
    entire = found.get(Role.PROMPT)
    return Tokens(
        found.get(Role.INPUT, 0.0) if entire is None else entire - cached, cached, found.get(Role.OUTPUT, 0.0)
    )


def settled(server: Server) -> list[Tokens]:
    """What each page counts, that of the hook last, when they no longer move."""
    same, last = 0, None
    while same < SETTLED_READS:
        now = [counted(server.row, page, transfer) for page, transfer in server.pages.items()]
        now += [counted(TPW_HOOK, server.hook_page, KvTransfer())] if server.hook_page else []
        same, last = (same + 1 if now == last else 0), now
        time.sleep(0.2)
    assert last is not None
    return last


def rows(server: Server) -> Iterator[list[str]]:
    """A row of each shape."""
    server.send(server.shapes[0])
    for shape in server.shapes:
        before = settled(server)
        answer = server.send(shape)
        head = [shape.name, f"`{shape.path}`"]
        if answer.status >= 400:
            yield [*head, f"not supported ({answer.status})"]
            continue
        usage = answer.usage()
        risen = [now - then for now, then in zip(settled(server), before, strict=True)]
        ours = risen.pop() if server.hook_page else None
        total = sum(risen, Tokens())
        agree = "yes" if usage == total and ours in (None, total) else "usage and ours" if usage == ours else ""
        agree = agree or ("no usage" if usage is None else "**no**")
        parts = [str(one) for one in risen] if server.names else []
        yield [*head, str(usage or ""), *parts, str(total), *([str(ours)] if ours else []), agree]


def names(server: Server) -> str:
    """Names on the page that may count tokens and are not read."""
    text = http_get(next(iter(server.pages))).decode()
    families = set(re.findall(r"^# TYPE (\S+) (?:counter|histogram)", text, re.MULTILINE))
    about = {name for name in families if "token" in name or "cache" in name}
    row = server.row
    lists = (row.output, row.input, row.cached_input, row.stored, row.external, row.live_output, row.prompt)
    read = {prefix + one.name for prefix in row.prefixes for candidates in lists for one in candidates}
    unread = sorted(about - read - {name.removesuffix("_total") for name in read})
    return ", ".join(f"`{name}`" for name in unread) or "none"


def table(server: Server) -> str:
    """The table of one server."""
    parts = [f"counted of the {name} instance" for name in server.names]
    heads = ["request", "path", "usage", *parts, "counted in all" if parts else "server's counters"]
    heads += ["ours from answers", "agree"] if server.hook_page else ["agree"]
    lines = [f"### {server.title}", "", _line(heads), _line(["---"] * len(heads))]
    lines += [_line([*cells, *[""] * (len(heads) - len(cells))]) for cells in rows(server)]
    return "\n".join([*lines, "", f"About tokens or caches on its page, and not read: {names(server)}.", ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Exit status 0, also if numbers differ: the tables show where."""
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("servers", nargs="*", help=f"of {', '.join(SERVERS)}; all of them by default")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this file")
    parser.add_argument("--pages", type=Path, metavar="DIRECTORY", help="keep the metrics pages there")
    options = parser.parse_args()
    tables = []
    for name in options.servers or SERVERS:
        with SERVERS[name]() as server:
            tables.append(table(server))
            print(tables[-1], flush=True)
            if options.pages:
                for number, page in enumerate(server.pages):
                    (options.pages / f"{name}-{number}.txt").write_bytes(http_get(page))
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
