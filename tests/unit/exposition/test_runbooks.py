"""Runbooks as pages of the exporter."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from support.snapshots import empty_snapshot
from tpw.exposition import runbooks
from tpw.exposition.http1 import Request, Response
from tpw.exposition.render import Page
from tpw.exposition.web import Web

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "runbooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.md"))


class Outline(HTMLParser):
    """The words of a page, its links, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.links, self.headings = "", list[str](), list[str]()
        self.open = list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link"}:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if tag == "a" and name == "href"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "code" not in self.open and "style" not in self.open:
            self.words += data
        if self.open[-1] in {"h1", "h2"}:
            self.headings.append(data)


def get(path: str) -> Response:
    return Web(empty_snapshot, Page())(Request("GET", path, {}, {}))


@pytest.mark.parametrize("name", NAMES)
def test_every_runbook_is_a_page_without_markdown_in_it(name: str):
    answer = get(f"/runbooks/{name}")
    assert (answer.status, answer.content_type) == (200, "text/html; charset=utf-8")
    page = Outline(answer.body.decode())
    assert page.open == []
    assert page.headings == [name, "Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert re.findall(r"[`*|]|\]\(|^#|^- |^\d+\. ", page.words, re.MULTILINE) == []
    assert {link for link in page.links if "/" not in link} <= set(NAMES)


def test_the_list_links_to_every_runbook_and_the_pages_to_each_other():
    assert [link for link in Outline(get("/runbooks/").body.decode()).links if "/" not in link] == NAMES
    assert '<a href="TpwGpuIdle">TpwGpuIdle</a>' in get("/runbooks/TpwWasteHigh").body.decode()


@pytest.mark.parametrize("path", ["/runbooks/TpwNone", "/runbooks/../catalogue.py", "/runbooks/TpwGpuIdle.md"])
def test_there_is_no_other_page(path: str):
    assert get(path).status == 404


def test_text_is_escaped():
    assert (
        runbooks._block(["a <b> & `<i>` *<u>*"]) == "<p>a &lt;b&gt; &amp; <code>&lt;i&gt;</code> <em>&lt;u&gt;</em></p>"
    )
