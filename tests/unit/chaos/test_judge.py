"""The judge of the chaos runs finds what it is there for."""

from __future__ import annotations

import pytest

from chaos.judge import Judge
from support.scraped import parse

GOOD = """\
tpw_polls_total 10
tpw_gpu_energy_joules_total{uuid="a"} 100
tpw_gpu_state_energy_joules_total{uuid="a",state="active"} 60
tpw_gpu_state_energy_joules_total{uuid="a",state="idle"} 40
tpw_server_energy_joules_total{server="s",state="active"} 60
"""


def problems(*pages: str) -> list[str]:
    judge = Judge()
    for page in pages:
        judge.see(parse(page))
    return judge.problems


def test_good_pages_have_no_problems() -> None:
    assert problems(GOOD, GOOD.replace("tpw_polls_total 10", "tpw_polls_total 11")) == []


@pytest.mark.parametrize(
    ("text", "other", "what"),
    [
        ("polls_total 10", "polls_total 9", "counters fell"),
        ('state="active"} 60\ntpw_gpu', 'state="active"} 61\ntpw_gpu', "law 1"),
        ('{server="s",state="active"} 60', '{server="s",state="active"} 61', "law 2"),
        ("polls_total 10", "polls_total 1e18", "1e+18"),
    ],
)
def test_a_page_that_breaks_a_law_is_a_problem(text: str, other: str, what: str) -> None:
    assert GOOD.replace(text, other) != GOOD
    assert any(what in problem for problem in problems(GOOD, GOOD.replace(text, other)))


def test_counters_that_fall_after_damaged_books_are_counted_and_no_problem() -> None:
    judge = Judge()
    judge.see(parse(GOOD))
    judge.books_destroyed()
    judge.see(parse("tpw_polls_total 1\n"))
    judge.see(parse("tpw_polls_total 2\n"))

    assert (len(judge.lost), judge.problems) == (1, [])


def test_a_counter_that_is_missing_for_a_while_must_not_fall() -> None:
    assert problems(GOOD, "tpw_polls_total 11\n", GOOD.replace("100", "99"))
