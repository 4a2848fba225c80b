"""Loading any file ends in a configuration or in problems with their lines."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.examples import examples
from tpw.config import Config, ConfigError, Known, Override, load
from tpw.settings.shapes import ByKind, ListOf, Section, settings_of

KNOWN = Known(accelerators=("nvml",), host_meters=("rapl",), engines=("vllm",))


def judge(text: str, **options: Any) -> None:
    problems = ()
    try:
        assert isinstance(load(text, "f.yaml", **options), Config)
        return
    except ConfigError as error:
        problems = error.problems
    lines = len(re.split("\r\n|[\r\n\x85\u2028\u2029]", text))
    assert problems
    for problem in problems:
        assert problem.message
        assert 0 <= problem.line <= lines
        assert "BAD" not in problem.message
        assert "object at 0x" not in str(problem)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    judge(text)


WORDS = (
    *[
        "",
        "1s",
        "auto",
        "none",
        "custom",
        "EUR",
        "eur",
        "Europe/Berlin",
        "mon-fri",
        "22:00-06:00",
        "http://a",
        "https://a",
    ],
    *["flat", "time_of_use", "urdb", "octopus", "entsoe", "intervals", "swiss", "tibber", "FR", "csv", "static", "uk"],
    *["2026-01-01", "13:00", "E-1R-AGILE-24-10-01-C", "end", "average_direct", "0.5", "a: b"],
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.floats(allow_nan=True),
    st.sampled_from(WORDS),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "kind", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def section(cls: type, extra: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    """A mapping with the keys of a section and mostly invalid values."""
    optional: dict[Any, Any] = dict(extra or {})
    for key, (meaning, _) in settings_of(cls).items():
        optional[key] = value_of(meaning.shape)
    optional["unknown"] = scalars
    return st.fixed_dictionaries({}, optional=optional)


def value_of(shape: Any) -> st.SearchStrategy[Any]:
    match shape:
        case Section(inner):
            return section(inner) | anything
        case ListOf(Section(inner)):
            return st.lists(section(inner), max_size=3) | anything
        case ByKind():
            branches = [section(inner, {"kind": st.just(kind)}) for kind, inner in shape.sections().items()]
            return st.one_of(*branches) | anything
        case _:
            return anything


@settings(
    max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(section(Config))
def test_any_mixture_of_right_and_wrong_values(document: Any) -> None:
    judge(yaml.safe_dump(document), known=KNOWN)


@settings(max_examples=examples(100), deadline=None)
@given(section(Config), st.sampled_from(["log.level", "web.listen_address", "state.dir"]), st.text(max_size=5))
def test_any_override_over_anything(document: Any, path: str, text: str) -> None:
    judge(yaml.safe_dump(document), overrides=[Override(path, text, "--flag")])
