"""The vocabulary of rules and dashboards: series and their labels.

PromQL is written as plain text. This module parses it just enough to find every series and label in it, so that

* a name or a label that is neither in the exporter's catalogue nor recorded by our rules fails the build, and
* a dashboard adds its filters (``server=~"$server"``) to exactly those selectors that have the label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tpw.exposition.catalogue import METRICS
from tpw.model import Boundary, PriceState, Scope, State, TokenKind

TARGET_LABELS = ("job", "instance", "cluster", "namespace")
"""Labels that the scrape adds to every series of an exporter."""

FOREIGN: Mapping[str, frozenset[str]] = {
    "up": frozenset(),
    "scrape_duration_seconds": frozenset(),
    "scrape_samples_scraped": frozenset(),
    "process_cpu_seconds_total": frozenset(),
    "process_resident_memory_bytes": frozenset(),
    "process_start_time_seconds": frozenset(),
    "ALERTS": frozenset(
        {"alertname", "alertstate", "severity", "server", "model", "gpu", "uuid", "source", "currency", "reference"}
    ),
}
"""Series that are used here but exposed by Prometheus or its client library."""

PARAMETERS: Mapping[str, frozenset[str]] = {
    "tpw:budget_per_month:money": frozenset({"currency"}),
    "tpw:budget_per_million_tokens:money": frozenset({"currency", "server"}),
    "tpw:spare_gpu:info": frozenset({"uuid", "instance"}),
    "tpw:removed_gpu:info": frozenset({"uuid", "instance"}),
    "tpw:standby_server:info": frozenset({"server"}),
    "tpw:cpu_server:info": frozenset({"server"}),
}
"""Series that an operator records as parameters of the alerts (``tpw-parameters.rules.yaml``)."""

VARIABLES: Mapping[str, str] = {"$boundary": "tpw_server_energy_joules_total"}
"""Variables of dashboards that are replaced by a series, and a series with the same labels."""

CLOSED: Mapping[str, frozenset[str]] = {
    "state": frozenset(map(str, (*State, *PriceState))),
    "kind": frozenset(map(str, (*TokenKind, "total"))),
    "boundary": frozenset(map(str, Boundary)),
    "scope": frozenset({*map(str, Scope), "booked"}),
    "period": frozenset({"day", "week", "month"}),
}
"""Labels with a closed set of values: a matcher on another value matches nothing."""

MATCHERS: Mapping[str, tuple[str, str]] = {"namespace": ("server", "(?:$namespace)(?:/.*)?")}
"""Filters that match another label than that of their name: (label, regular expression)."""

_LOCAL = frozenset({"instance", "server", "gpu"})
"""Labels that may have equal values in two clusters."""

_AGGREGATORS = frozenset(
    ("sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile")
)
_LABEL_LISTS = frozenset(["by", "without", "on", "ignoring", "group_left", "group_right"])
_WORDS = frozenset(["and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"])
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
      | (?P<variable>\$\{[^}]*\} | \$\w+)
      | (?P<number>:?\d[\w.]*(?:[eE][+-]?\d+)? | \.\d+)
      | (?P<name>[A-Za-z_:][\w:]*)
      | (?P<sign>=~|!~|!=|==|<=|>=|.)""",
    re.VERBOSE | re.DOTALL,
)


class UnknownNameError(ValueError):
    """A series, a label or a label value that does not exist."""


class Token(NamedTuple):
    """A piece of PromQL. ``kind`` is the group of the pattern above."""

    kind: str
    text: str


def tokens(expr: str) -> list[Token]:
    """PromQL as tokens. Their texts joined are the expression."""
    return [Token(match.lastgroup or "sign", match.group()) for match in _TOKEN.finditer(expr)]


class Selector(NamedTuple):
    """One series in an expression. ``place`` is the index of the token after its name, or after its opening brace."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    """(label, operator, value as written)."""
    place: int
    braces: bool


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Series and the labels each of them has."""

    series: Mapping[str, frozenset[str]]

    @classmethod
    def of_catalogue(cls) -> Vocabulary:
        """The series of the exporter, with the labels of the scrape."""
        target = frozenset(TARGET_LABELS)
        exposed = {name: target | frozenset(metric.labels) for name, metric in METRICS.items()}
        foreign = {name: target | labels for name, labels in FOREIGN.items()}
        variables = {name: exposed[like] for name, like in VARIABLES.items()}
        return cls({**exposed, **foreign, **PARAMETERS, **variables})

    def with_series(self, more: Mapping[str, Iterable[str]]) -> Vocabulary:
        """This vocabulary and recorded series."""
        return Vocabulary({**self.series, **{name: frozenset(labels) for name, labels in more.items()}})

    def check(self, expr: str) -> None:
        """Raises UnknownNameError where the expression uses a name that does not exist."""
        pieces = tokens(expr)
        for selector in _selectors(pieces):
            labels = self.series.get(selector.name)
            if labels is None:
                raise UnknownNameError(f"no series {selector.name}, in: {expr}")
            for label, operator, value in selector.matchers:
                if label not in labels:
                    raise UnknownNameError(f"{selector.name} has no label {label}, in: {expr}")
                _check_value(label, operator, value, expr)
        known = frozenset().union(*self.series.values())
        for label in _listed_labels(pieces):
            if label not in known:
                raise UnknownNameError(f"no series has a label {label}, in: {expr}")

    def names(self, expr: str) -> list[str]:
        """The series of an expression, in order."""
        return [selector.name for selector in _selectors(tokens(expr))]

    def selectors(self, expr: str) -> list[Selector]:
        """The series of an expression with their matchers."""
        return list(_selectors(tokens(expr)))

    def filtered(self, expr: str, filters: Sequence[str]) -> str:
        """The expression with ``label=~"$label"`` added wherever a series has the label and does not match it yet.

        The filter ``namespace`` is that of a server, which is the first part of its name: the label of that name is the
        namespace of the exporter.
        """
        pieces = tokens(expr)
        inserts: dict[int, str] = {}
        for selector in _selectors(pieces):
            has = self.series.get(selector.name, frozenset())
            matched = {label for label, _, _ in selector.matchers}
            wanted = ((name, *MATCHERS.get(name, (name, f"${name}"))) for name in filters)
            added = ", ".join(
                f'{label}=~"{pattern}"' for name, label, pattern in wanted if label in has and name not in matched
            )
            if not added:
                continue
            if not selector.braces:
                inserts[selector.place] = "{" + added + "}"
            else:
                inserts[selector.place] = added + (", " if selector.matchers else "")
        return "".join(inserts.get(index, "") + piece.text for index, piece in enumerate(pieces)) + inserts.get(
            len(pieces), ""
        )


def owned(expr: str, words: Vocabulary) -> str:
    """The expression with every series of GPUs reduced to the GPUs of the chosen namespaces: those of their servers.

    Series of GPUs have no namespace. All namespaces are all GPUs, owned or not: as *All* the variable is ``.*``, which
    every UUID matches.
    """
    pieces = tokens(expr)
    before: dict[int, str] = {}
    after: dict[int, str] = {}
    for selector in _selectors(pieces):
        labels = words.series.get(selector.name, frozenset())
        if "uuid" not in labels or "server" in labels or selector.name in PARAMETERS:
            continue
        begin, end = _extent(pieces, selector)
        every = [piece.text for piece in pieces[begin : end + 1]]
        matcher = 'uuid=~"$namespace"' + (", " if selector.matchers else "")
        every.insert(selector.place - begin, matcher if selector.braces else f"{{{matcher}}}")
        before[begin] = "("
        after[end] = f" and on (cluster, job, instance, uuid) tpw_server_gpu or {''.join(every)})"
    return "".join(before.get(i, "") + piece.text + after.get(i, "") for i, piece in enumerate(pieces))


def _extent(pieces: Sequence[Token], selector: Selector) -> tuple[int, int]:
    """Indices of the first and last token of a selector, of a function around its range, or of its offset."""
    begin = end = selector.place - 1
    if selector.braces:
        begin = max(i for i in range(begin) if pieces[i].kind == "name")
        end, _ = _matchers(pieces, end)
    following = _next(pieces, end + 1)
    text = pieces[following].text if following < len(pieces) else ""
    if text == "offset":
        return begin, _next(pieces, following + 1)
    if text != "[":
        return begin, end
    while pieces[begin].text != "(":
        begin -= 1
    while pieces[end].text != ")":
        end += 1
    return begin - 1, end


def apart(expr: str) -> str:
    """The expression with ``cluster`` in every list of labels that names nodes, servers or GPUs.

    Two clusters in one Prometheus may have the same names for them: their series are never put together.
    """
    pieces = tokens(expr)
    inserts: dict[int, str] = {}
    for index, (kind, text) in enumerate(pieces):
        if kind != "name" or text not in ("by", "on"):
            continue
        end = _after_list(pieces, index)
        labels = {piece.text for piece in pieces[index + 1 : end] if piece.kind == "name"}
        if labels & _LOCAL and "cluster" not in labels:
            inserts[_next(pieces, index + 1) + 1] = "cluster, "
    return "".join(inserts.get(index, "") + piece.text for index, piece in enumerate(pieces))


def _check_value(label: str, operator: str, value: str, expr: str) -> None:
    allowed = CLOSED.get(label)
    text = value[1:-1]
    if allowed is None or "$" in text:
        return
    options = text.split("|") if operator in ("=~", "!~") else [text]
    for option in options:
        if re.fullmatch(r"\w+", option) and option not in allowed:
            raise UnknownNameError(f"{label} is never {option!r}, in: {expr}")


def _selectors(pieces: Sequence[Token]) -> Iterator[Selector]:
    index = 0
    while index < len(pieces):
        kind, text = pieces[index]
        if kind == "name" and text in _LABEL_LISTS:
            index = _after_list(pieces, index)
            continue
        if (kind == "name" and not _is_word(pieces, index)) or text in VARIABLES:
            opening = _next(pieces, index + 1)
            if opening < len(pieces) and pieces[opening].text == "{":
                closing, matchers = _matchers(pieces, opening)
                yield Selector(text, matchers, opening + 1, braces=True)
                index = closing + 1
                continue
            yield Selector(text, (), index + 1, braces=False)
        index += 1


def _listed_labels(pieces: Sequence[Token]) -> Iterator[str]:
    for index, (kind, text) in enumerate(pieces):
        if kind == "name" and text in _LABEL_LISTS:
            for piece in pieces[index + 1 : _after_list(pieces, index)]:
                if piece.kind == "name":
                    yield piece.text


def _after_list(pieces: Sequence[Token], index: int) -> int:
    """Index after ``by (...)``; after the word itself where no list follows (``group_left`` may have none)."""
    opening = _next(pieces, index + 1)
    if opening >= len(pieces) or pieces[opening].text != "(":
        return index + 1
    word = pieces[index].text
    closing = opening
    while pieces[closing].text != ")":
        closing += 1
    inside = [piece for piece in pieces[opening + 1 : closing] if piece.kind != "space"]
    if word in ("group_left", "group_right") and not all(piece.kind == "name" or piece.text == "," for piece in inside):
        return index + 1
    return closing + 1


def _is_word(pieces: Sequence[Token], index: int) -> bool:
    text = pieces[index].text
    if text in _WORDS or text.lower() in ("inf", "nan"):
        return True
    after = _next(pieces, index + 1)
    follows = pieces[after].text if after < len(pieces) else ""
    return follows == "(" or (text in _AGGREGATORS and follows in _LABEL_LISTS)


def _matchers(pieces: Sequence[Token], opening: int) -> tuple[int, tuple[tuple[str, str, str], ...]]:
    found = []
    index = opening
    while pieces[index].text != "}":
        index += 1
        if pieces[index].kind == "name":
            operator = _next(pieces, index + 1)
            value = _next(pieces, operator + 1)
            found.append((pieces[index].text, pieces[operator].text, pieces[value].text))
            index = value
    return index, tuple(found)


def _next(pieces: Sequence[Token], index: int) -> int:
    while index < len(pieces) and pieces[index].kind == "space":
        index += 1
    return index
