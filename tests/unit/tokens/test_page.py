"""Finding and splitting samples of a page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.tokens.page import HIGHEST, Page, labels_of, split


def values(body: str, name: str) -> list[tuple[str, float]]:
    return [(head.decode(), value) for head, value in Page(body.encode()).lines(name)]


def test_a_sample_without_labels():
    assert values("up_total 5\n", "up_total") == [("up_total", 5.0)]


def test_a_sample_on_the_last_line_without_a_line_break():
    assert values("a 1\nup_total 5", "up_total") == [("up_total", 5.0)]


def test_every_label_set_of_a_name_is_found():
    body = 'x_total{a="1"} 1\nx_total{a="2"} 2\ny 3\nx_total{a="3"} 3\n'
    assert values(body, "x_total") == [('x_total{a="1"}', 1.0), ('x_total{a="2"}', 2.0), ('x_total{a="3"}', 3.0)]


def test_a_longer_name_is_another_metric():
    body = 'x_total_created 9\nx_total_bucket{le="1"} 8\nx_totals 7\nx_total 1\n'
    assert values(body, "x_total") == [("x_total", 1.0)]


def test_a_name_inside_a_line_is_not_a_sample():
    body = '# HELP x_total is x_total 7\ny{a="\\nx_total 9"} 1\n x_total 3\n'
    assert values(body, "x_total") == []


def test_label_values_may_contain_braces_blanks_hashes_and_escaped_quotes():
    body = 'x{a="}{ # \\" \\\\",b="ä"} 4\n'
    [(head, value)] = Page(body.encode()).lines("x")
    assert value == 4.0
    assert labels_of(head) == {"a": '}{ # " \\', "b": "ä"}


def test_an_escaped_line_break_in_a_label_value_is_unescaped():
    assert labels_of(b'x{a="one\\ntwo\\\\n"}') == {"a": "one\ntwo\\n"}


def test_a_timestamp_after_the_value_is_ignored():
    assert values('x{a="1"} 4 1700000000000\nx 5 1700000000.5\n', "x") == [('x{a="1"}', 4.0), ("x", 5.0)]


def test_an_exemplar_is_ignored():
    body = 'x_total{a="1"} 4 # {trace_id="} 9"} 1.0 1700000000.0\nx_total 5 # {trace_id="y"} 1.0\n'
    assert values(body, "x_total") == [('x_total{a="1"}', 4.0), ("x_total", 5.0)]


def test_tabs_separate_like_blanks():
    assert values("prompt_tokens_sum\t12\n", "prompt_tokens_sum") == [("prompt_tokens_sum", 12.0)]


def test_blanks_before_the_labels_are_allowed():
    assert values('x {a="1"} 4\n', "x") == [('x{a="1"}', 4.0)]


def test_carriage_returns_at_line_ends_are_ignored():
    assert values("x 4\r\ny 5\r\n", "x") == [("x", 4.0)]


def test_scientific_notation():
    assert values("x 1.5e+06\n", "x") == [("x", 1.5e6)]


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "", "five", "1_000", "0x10"])
def test_an_invalid_value_is_skipped(value: str):
    assert values(f'x{{a="1"}} {value}\nx{{a="2"}} 2\n', "x") == [('x{a="2"}', 2.0)]


def test_an_invalid_line_is_skipped():
    assert values('x{a="1} 1\nx{a="2"\nx\nx{\nx{a="3"} 3\n', "x")[-1] == ('x{a="3"}', 3.0)


def test_quoted_utf8_names():
    body = '{"gen_ai.usage_sum","gen_ai.token.type"="output",b="1"} 7\n{"gen_ai.usage_sum"} 8\n'
    [first, second] = Page(body.encode()).lines("gen_ai.usage_sum")
    assert labels_of(first[0]) == {"gen_ai.token.type": "output", "b": "1"}
    assert (first[1], second[1]) == (7.0, 8.0)


@pytest.mark.parametrize("head", [b'x{a="1"', b"x{a}", b'x{a="1" b="2"}', b'x{="1"}', b"x{a=1}"])
def test_invalid_labels_are_refused(head: bytes):
    with pytest.raises(ValueError, match="label"):
        labels_of(head)


def test_declared_returns_the_type():
    page = Page(b"# HELP a_total words\n# TYPE a_total counter\n# HELP b words\n")
    assert (page.declared("a_total"), page.declared("b"), page.declared("a")) == ("counter", "", None)


def test_prefixed_matches_declared_and_sampled_names():
    page = Page(b'# TYPE vllm:a counter\nother 1\n{"gen_ai.x"} 2\n')
    assert [page.prefixed(prefix) for prefix in ("vllm:", "oth", "gen_ai.", "sglang:")] == [True, True, True, False]


def test_an_openmetrics_page_without_its_end_is_not_complete():
    assert (Page(b"x 1\n# EOF\n").is_complete(), Page(b"x 1\n# E").is_complete()) == (True, False)


@pytest.mark.parametrize("body", ["<html><body>no</body></html>\n", '{"detail": "Not Found"}', "Not a page at all\n"])
def test_a_body_that_is_not_a_metrics_page_has_no_samples(body: str):
    assert not Page(body.encode()).has_samples()


LABELS = st.dictionaries(st.from_regex(r"\A[a-z_]{1,6}\Z"), st.text(max_size=12), max_size=4)


@given(LABELS, st.floats(min_value=0, max_value=HIGHEST, exclude_max=True))
def test_a_formatted_sample_is_parsed_again(labels: dict[str, str], value: float):
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    pairs = ",".join(f'{name}="{escaped(text)}"' for name, text in labels.items())
    body = f"before 1\nx_total{{{pairs}}} {value!r}\nafter 2\n"
    [(head, found)] = Page(body.encode("utf-8", "surrogatepass")).lines("x_total")
    expected = {name: text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for name, text in labels.items()}
    assert labels_of(head) == expected
    assert found == value


@given(st.binary(max_size=200))
def test_splitting_never_raises(line: bytes):
    sample = split(b"x" + line.replace(b"\n", b""), 1)
    assert sample is None or isinstance(sample[1], float)


@pytest.mark.parametrize("value", ["1.7e308", "1e19", "NaN", "+Inf", "-1", "-0.5", "1e400"])
def test_a_value_that_no_counter_can_have_is_refused(value: str) -> None:
    page = Page(f'x_total {{a="1"}} {value}\nx_total 7\nx_total no\ny_total {value}\n'.encode())
    assert page.lines("x_total") == [(b"x_total", 7.0)]
    assert page.refused("x_total") == [b'x_total{a="1"}']
