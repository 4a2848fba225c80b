"""Runbooks of the alerts as pages: ``/runbooks/NAME``. They need no network: an alert links to the exporter itself.

The files are those of ``deploy/runbooks``, written in headings, paragraphs, lists, tables, code, emphasis and links. A
Markdown package would be a dependency on every node for these few constructs; ``tests/unit/exposition/test_runbooks.py``
fails for a runbook that uses others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from itertools import groupby

from tpw.exposition.landing import document

_FOLDER = files("tpw.exposition") / "runbook_files"
_FOOT = '<a href="./">all runbooks</a> <a href="../">status page</a>'
_ITEM = re.compile(r"(?:-|\d+\.) +")
_INLINE = re.compile(r"`(?P<code>[^`]+)`|\[(?P<text>[^]]+)\]\((?P<target>[^)\s]+)\)|\*(?P<emphasis>[^*\s][^*]*)\*")


def page(name: str) -> bytes | None:
    """The runbook of an alert, or the list of them for ""; None where there is none of that name."""
    names = sorted(path.name.removesuffix(".md") for path in _FOLDER.iterdir())
    if not name:
        items = "".join(f'<li><a href="{item}">{item}</a></li>' for item in names)
        return document("tpw-exporter: runbooks", f"<main><h1>Runbooks</h1><ul>{items}</ul></main>", _FOOT)
    if name not in names:
        return None
    body = "".join(map(_block, _blocks((_FOLDER / f"{name}.md").read_text(encoding="utf-8"))))
    return document(f"tpw-exporter: {name}", f"<main class=text>{body}</main>", _FOOT)


def _blocks(text: str) -> Iterator[list[str]]:
    for is_blank, block in groupby(text.splitlines(), key=lambda line: not line.strip()):
        if not is_blank:
            yield list(block)


def _block(lines: list[str]) -> str:
    first = lines[0]
    if first.startswith("#"):
        marks, _, title = first.partition(" ")
        level = f"h{len(marks)}"
        return f"<{level}>{_inline(title)}</{level}>" + (_block(lines[1:]) if lines[1:] else "")
    if first.startswith("|"):
        head, _, *rows = ([_inline(cell.strip()) for cell in line.strip("| ").split("|")] for line in lines)
        body = "".join(f"<tr>{''.join(f'<td class=wrap>{cell}</td>' for cell in row)}</tr>" for row in rows)
        heads = "".join(f"<th>{cell}</th>" for cell in head)
        return f"<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    if not _ITEM.match(first):
        return f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>"
    items: list[str] = []
    for line in lines:
        item = _ITEM.match(line)
        if item:
            items.append(line[item.end() :].strip())
        else:
            items[-1] += f" {line.strip()}"
    kind = "ul" if first.startswith("-") else "ol"
    return f"<{kind}>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</{kind}>"


def _inline(text: str) -> str:
    parts, end = [], 0
    for match in _INLINE.finditer(text):
        parts.append(escape(text[end : match.start()]))
        end = match.end()
        if match["code"]:
            parts.append(f"<code>{escape(match['code'])}</code>")
        elif match["emphasis"]:
            parts.append(f"<em>{_inline(match['emphasis'])}</em>")
        else:
            # A page of the documentation is named; only other runbooks are here.
            words, target = _inline(match["text"]), match["target"].removesuffix(".md")
            parts.append(words if "/" in target else f'<a href="{escape(target)}">{words}</a>')
    parts.append(escape(text[end:]))
    return "".join(parts)
