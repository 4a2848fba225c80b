"""A dialect from a user's configuration: the ``tokens:`` mapping of a server, or an entry of ``dialects:``.

Every field of a :class:`tpw.tokens.dialects.Dialect` that changes what is read has a key here, so that a user can write
what a built-in row has.

Keys that count tokens, each the name of a metric, a mapping, or a list of those, best first: ``output``, ``input``
(prompt tokens without the cached ones), ``prompt`` (with them: instead of ``input``, or beside it if nothing else counts
the cached ones), ``cached_input``, ``stored`` (cached ones that it does not include), ``external`` (from outside the
instance: cached ones if it has a store there),
``requests``, ``uncounted`` (requests with unknown tokens, by the label ``path``),
``live_output``; gauges likewise: ``running``, ``waiting``; and ``work``, a mapping of unit to the same. ``ttft``, ``tpot``
and ``e2e`` are names of histograms of latencies in seconds; ``paired`` is true where every request is in all of them. A
mapping has ``metric``, and may have ``match`` and ``unless`` (label to value or list of values), ``cadence``, ``kind``
(``counter``, or ``histogram_sum`` for the name of a histogram), ``includes_cached``, and ``tier`` (of cached tokens: a
tier, or a mapping of label to value to tier).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from tpw.model import Cadence, Role, Tier
from tpw.tokens.dialects import Candidate, Climb, Dialect, Kind, Level, Lookup, Mark, Processes, Progress, Work

_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")

GAUGES = ("running", "waiting")
METRICS = (
    *("output", "input", "prompt", "cached_input", "stored", "external", "requests", "uncounted", "live_output"),
    *GAUGES,
)
"""Keys that hold names of metrics."""
OTHERS = (
    *(
        "work",
        "path",
        "port",
        "other_ports",
        "model_label",
        "pin",
        "prefix",
        "recognised_by",
        "cadence",
        "level",
        "late",
    ),
    *("ttft", "tpot", "e2e", "paired"),
    *("model_source", "version_source", "progress", "processes", "enable"),
)
_CANDIDATE = ("metric", "match", "unless", "cadence", "kind", "includes_cached", "tier")
_DEFAULT_ENABLE = (
    "compare the names under `tokens` with the page;"
    " if the server creates its counters with the first request, wait for that"
)


def dialect_from_mapping(mapping: Mapping[str, Any], name: str = "custom") -> Dialect:
    """The row. Raises ValueError with every problem, one per line, each with its key path."""
    return _Parser(mapping, name).dialect()


class _Parser:
    """Parses one mapping; collects problems instead of stopping at the first."""

    def __init__(self, mapping: Mapping[str, Any], name: str) -> None:
        self._mapping = mapping
        self._name = name
        self._problems: list[str] = []

    def dialect(self) -> Dialect:
        self._check_keys("", self._mapping, (*METRICS, *OTHERS))
        metrics = {key: self._candidates(key, self._mapping.get(key)) for key in METRICS}
        prompt = tuple(replace(candidate, role=Role.PROMPT) for candidate in metrics["prompt"])
        if metrics["input"] and prompt and metrics["cached_input"]:
            self._problems.append(
                "prompt: together with input it counts the cached tokens, which cached_input counts too: remove one of the"
                " three"
            )
        if not any(metrics[key] for key in ("output", "input", "prompt")) and "work" not in self._mapping:
            self._problems.append("output: at least one of output, input, prompt or work is required")
        row = Dialect(
            name=self._name,
            mark=self._mark(),
            prefixes=self._strings("prefix") or ("",),
            paths=self._strings("path") or ("/metrics",),
            port=self._port("port", self._mapping.get("port")),
            other_ports=self._list("other_ports", self._mapping.get("other_ports"), self._port),
            level=self._member("level", self._mapping.get("level"), Level) or Level.ENGINE,
            cadence=self._member("cadence", self._mapping.get("cadence"), Cadence) or Cadence.UNKNOWN,
            output=metrics["output"],
            input=metrics["input"] or prompt,
            cached_input=metrics["cached_input"],
            stored=metrics["stored"],
            external=metrics["external"],
            prompt=prompt if metrics["input"] else (),
            requests=metrics["requests"],
            uncounted=metrics["uncounted"],
            live_output=metrics["live_output"],
            running=metrics["running"],
            waiting=metrics["waiting"],
            work=self._work(),
            model_labels=self._strings("model_label", default=("model_name", "model")),
            pin=self._strings("pin"),
            ttft=self._strings("ttft"),
            tpot=self._strings("tpot"),
            e2e=self._strings("e2e"),
            paired=self._boolean("paired", self._mapping.get("paired")),
            late=self._boolean("late", self._mapping.get("late")),
            model_source=self._list("model_source", self._mapping.get("model_source"), self._lookup),
            version_source=self._list("version_source", self._mapping.get("version_source"), self._lookup),
            progress=self._progress(),
            processes=self._processes(),
            enable="; ".join(self._strings("enable", default=(_DEFAULT_ENABLE,))),
        )
        if self._problems:
            raise ValueError("\n".join(self._problems))
        return row

    # ------------------------------------------------------------------------------------------------------- metrics

    def _candidates(self, where: str, value: Any) -> tuple[Candidate, ...]:
        return self._list(where, value, self._candidate)

    def _candidate(self, where: str, entry: Any) -> Candidate | None:
        gauge = where.partition("[")[0] in GAUGES
        if isinstance(entry, str) and entry:
            return Candidate(entry, Kind.GAUGE if gauge else Kind.COUNTER)
        if not isinstance(entry, Mapping):
            self._problems.append(f"{where}: expected a metric name or {{metric, match}}, not {entry!r}")
            return None
        self._check_keys(where, entry, _CANDIDATE)
        metric = entry.get("metric")
        if not isinstance(metric, str) or not metric:
            self._problems.append(f"{where}.metric: expected the name of a metric")
            return None
        kind = Kind.GAUGE if gauge else self._member(f"{where}.kind", entry.get("kind"), Kind)
        return Candidate(
            metric,
            kind or Kind.COUNTER,
            match=self._labels(f"{where}.match", entry.get("match")),
            cadence=self._member(f"{where}.cadence", entry.get("cadence"), Cadence),
            role=Role.PROMPT if self._boolean(f"{where}.includes_cached", entry.get("includes_cached")) else None,
            unless=self._labels(f"{where}.unless", entry.get("unless")),
            tiers=self._tiers(f"{where}.tier", entry.get("tier")),
        )

    def _tiers(self, where: str, value: Any) -> tuple[tuple[str, str, Tier], ...]:
        by_label = value if isinstance(value, Mapping) else {"": {"": value}}
        found = []
        for label, tiers in by_label.items():
            for one, name in (tiers if isinstance(tiers, Mapping) else {"": tiers}).items():
                tier = self._member(where, name, Tier)
                found += [] if tier is None else [(str(label), str(one), tier)]
        return tuple(found)

    def _labels(self, where: str, value: Any) -> tuple[tuple[str, str], ...]:
        """Pairs; a label with a list of values has one pair for each."""
        if value is None:
            return ()
        if not isinstance(value, Mapping):
            self._problems.append(f"{where}: expected a mapping of label to value")
            return ()
        return tuple(
            (str(label), str(one))
            for label, wanted in value.items()
            for one in (wanted if isinstance(wanted, list | tuple) else [wanted])
        )

    def _work(self) -> tuple[Work, ...]:
        units = self._mapping.get("work") or {}
        if not isinstance(units, Mapping):
            self._problems.append("work: expected a mapping of unit to metric")
            return ()
        return tuple(Work(str(unit), self._candidates(f"work.{unit}", value)) for unit, value in units.items())

    # -------------------------------------------------------------------------------------------------------- others

    def _mark(self) -> Mark:
        value = self._mapping.get("recognised_by")
        if not isinstance(value, Mapping):
            return Mark(any_prefix=self._strings("recognised_by"))
        parts = ("any_prefix", "all_prefix", "all_series", "absent_prefix")
        self._check_keys("recognised_by", value, parts)
        found = {part: self._list(f"recognised_by.{part}", value.get(part), self._string) for part in parts}
        return Mark(**found)

    def _processes(self) -> Processes:
        value = self._section("processes", ("listener", "gpu", "climb"))
        if value is None:
            return Processes()
        return Processes(
            self._list("processes.listener", value.get("listener"), self._string),
            self._list("processes.gpu", value.get("gpu"), self._string),
            self._member("processes.climb", value.get("climb"), Climb) or Climb.ANCESTOR,
        )

    def _progress(self) -> Progress | None:
        value = self._section("progress", ("path", "busy", "identity", "tokens", "note"))
        if value is None:
            return None
        path, busy = self._string("progress.path", value.get("path")), self._string("progress.busy", value.get("busy"))
        identity = self._list("progress.identity", value.get("identity"), self._string)
        tokens = value.get("tokens")
        pointers = (
            tokens if isinstance(tokens, list | tuple) and tokens and isinstance(tokens[0], list | tuple) else [tokens]
        )
        found = tuple(self._pointer("progress.tokens", pointer) for pointer in pointers)
        if path is None or busy is None:
            return None
        return Progress(path, busy, identity, found, str(value.get("note") or ""))

    def _lookup(self, where: str, entry: Any) -> Lookup | None:
        if not isinstance(entry, Mapping):
            self._problems.append(f"{where}: expected {{path, pointer}}, not {entry!r}")
            return None
        self._check_keys(where, entry, ("path", "pointer"))
        path = self._string(f"{where}.path", entry.get("path"))
        pointer = self._pointer(f"{where}.pointer", entry.get("pointer"))
        return None if path is None else Lookup(path, pointer)

    def _pointer(self, where: str, value: Any) -> tuple[str | int, ...]:
        steps = value if isinstance(value, list | tuple) else [value]
        if not steps or not all(isinstance(step, str | int) and not isinstance(step, bool) for step in steps):
            self._problems.append(f"{where}: expected a key, or a list of keys and indices that lead to the value")
            return ()
        return tuple(steps)

    # -------------------------------------------------------------------------------------------------------- shapes

    def _check_keys(self, where: str, value: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in value:
            if key not in known:
                place = f"{where}.{key}" if where else key
                self._problems.append(f"{place}: unknown key; known are {', '.join(known)}")

    def _section(self, key: str, known: tuple[str, ...]) -> Mapping[str, Any] | None:
        value = self._mapping.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._problems.append(f"{key}: expected a mapping of {', '.join(known)}")
            return None
        self._check_keys(key, value, known)
        return value

    def _list(self, where: str, value: Any, parse: Callable[[str, Any], _T | None]) -> tuple[_T, ...]:
        """One value or a list of them."""
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            one = parse(where, value)
            return () if one is None else (one,)
        found = (parse(f"{where}[{position}]", entry) for position, entry in enumerate(value))
        return tuple(one for one in found if one is not None)

    def _strings(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        value = self._mapping.get(key)
        return default if value is None else self._list(key, value, self._string)

    def _string(self, where: str, value: Any) -> str | None:
        if isinstance(value, str):
            return value
        self._problems.append(f"{where}: expected a string or a list of strings")
        return None

    def _port(self, where: str, value: Any) -> int | None:
        if value is None or (isinstance(value, int) and 0 < value < 65536):
            return value
        self._problems.append(f"{where}: expected a port number")
        return None

    def _boolean(self, where: str, value: Any) -> bool:
        if value is None or isinstance(value, bool):
            return bool(value)
        self._problems.append(f"{where}: expected true or false")
        return False

    def _member(self, where: str, value: Any, members: type[_E]) -> _E | None:
        if value is None:
            return None
        try:
            return members(value)
        except ValueError:
            self._problems.append(f"{where}: expected one of {', '.join(member.value for member in members)}")
            return None
