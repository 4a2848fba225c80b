"""The page in a real browser: sorted, filtered, refreshed, and within a phone's width. A page around it presses buttons."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from support.realparts import chromium
from support.snapshots import rich_snapshot
from tpw.exposition.http1 import Request, Response
from tpw.exposition.render import Page
from tpw.exposition.serving import Server
from tpw.exposition.web import Web
from tpw.model import ServerWorkload
from tpw.snapshot import Snapshot

pytestmark = pytest.mark.heavy
"""The browser is 215 MB of packages; the tests themselves take 3 s."""

AROUND = """<body><iframe id=page width=WIDTH height=1200 src="/#FRAGMENT"></iframe><script>
var frame = document.getElementById('page'), found = {};
function names(id) {
  return Array.from(frame.contentDocument.querySelectorAll('#' + id + ' tbody:not([hidden])'),
    body => body.rows[0].cells[0].querySelector('b').textContent);
}
function head(id, text) {
  return Array.from(frame.contentDocument.querySelectorAll('#' + id + ' th'), one => one)
    .find(one => one.textContent === text);
}
function change(id, value) {
  var input = frame.contentDocument.getElementById(id);
  input.value = value;
  input.dispatchEvent(new frame.contentWindow.Event('input', {bubbles: true}));
}
function refreshed() { return new Promise(done => setTimeout(done, 2500)); }
frame.onload = async function () {
  var page = frame.contentDocument;
  try { STEPS } catch (error) { found.error = String(error); }
  var out = document.createElement('pre');
  out.id = 'found';
  out.textContent = JSON.stringify(found);
  document.body.appendChild(out);
};
</script>"""


class Ticking:
    """Another snapshot at every request, in which two servers belong to namespaces."""

    def __init__(self) -> None:
        self.tick = 0

    def __call__(self) -> Snapshot:
        self.tick += 1
        owners = {"chat": ServerWorkload(namespace="team-a"), "embed": ServerWorkload(namespace="team-b")}
        return replace(rich_snapshot(self.tick), owners=owners)


def in_browser(tmp_path: Path, steps: str, *, width: int = 1440, fragment: str = "") -> Mapping[str, Any]:
    """What ``steps`` put into ``found``. Fails where the browser refused something by the page's policy."""
    web = Web(Ticking(), Page(), host="node-1")
    around = AROUND.replace("WIDTH", str(width)).replace("FRAGMENT", fragment).replace("STEPS", steps).encode()

    def answer(request: Request) -> Response:
        return Response(around, 200, "text/html; charset=utf-8") if request.path == "/around" else web(request)

    browser, server = chromium(), Server(["127.0.0.1:0"], answer)
    server.start()
    try:
        done = subprocess.run(
            browser.command(
                tmp_path / "profile",
                *("--virtual-time-budget=15000", "--enable-logging=stderr", "--dump-dom"),
                f"http://127.0.0.1:{server.ports[0]}/around",
            ),
            env=browser.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    finally:
        server.stop()
    assert re.findall("CONSOLE.*", done.stderr) == []
    found: dict[str, Any] = json.loads(unescape(done.stdout.split('<pre id="found">')[1].split("</pre>")[0]))
    assert "error" not in found
    return found


def test_servers_and_gpus_are_sorted_and_filtered_across_refreshes(tmp_path: Path):
    found = in_browser(
        tmp_path,
        """
        found.first = names('servers');
        head('servers', 'output tok/s').querySelector('button').click();
        found.fastest = names('servers');
        head('gpus', 'power').querySelector('button').click();
        head('gpus', 'power').querySelector('button').click();
        found.least = names('gpus');
        found.sorted = head('gpus', 'power').getAttribute('aria-sort');
        page.getElementById('filter').focus();
        change('filter', 'EMBED');
        var at = page.querySelector('time').textContent;
        await refreshed();
        found.refreshed = at !== page.querySelector('time').textContent;
        found.focused = page.activeElement.id;
        found.filtered = [names('servers'), names('gpus'), page.querySelector('output').textContent];
        change('filter', '');
        found.spaces = Array.from(page.getElementById('namespace').options, one => one.text);
        change('namespace', 'team-a');
        found.inSpace = [names('servers'), names('gpus')];
        found.curve = page.querySelectorAll('.tile polyline').length;
        found.address = frame.contentWindow.location.hash;
        """,
    )
    assert found == {
        "first": ["chat", "code", "embed"],
        "fastest": ["chat", "embed", "code"],
        "least": ["3", "2", "1", "0", "4", "5"],
        "sorted": "ascending",
        "refreshed": True,
        "focused": "filter",
        "filtered": [["embed"], ["2"], "1 of 3 servers, 1 of 6 GPUs"],
        "spaces": ["all", "team-a", "team-b"],
        "inSpace": [["chat"], ["1", "0"]],
        "curve": 3,
        "address": "#namespace=team-a&servers=3-&gpus=2%2B",
    }


@pytest.mark.parametrize("width", [390, 1440])
def test_an_address_keeps_the_choice_and_the_page_fits_its_width(tmp_path: Path, width: int):
    found = in_browser(
        tmp_path,
        """
        found.servers = names('servers');
        found.filter = page.getElementById('filter').value;
        found.list = getComputedStyle(page.getElementById('sort').parentNode).visibility;
        found.over = page.documentElement.scrollWidth - page.documentElement.clientWidth;
        change('sort', '4-');
        found.best = names('servers');
        """,
        width=width,
        fragment="servers=0-&filter=acme",
    )
    assert found == {
        "servers": ["embed", "chat"],
        "filter": "acme",
        "list": "visible" if width == 390 else "hidden",
        "over": 0,
        "best": ["chat", "embed"],
    }
