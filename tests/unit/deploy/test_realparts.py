"""How tests come by real software, and what happens where it cannot be had."""

from __future__ import annotations

import os
import time

import pytest

from support import realparts


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(realparts, "CACHE", tmp_path)


def part(make):
    """A part that is fetched by ``make(target)``."""

    class Made(realparts.Part):
        def make(self, target, deadline):
            target.mkdir()
            return make(target)

    return Made(("suite",), ("package",))


def test_a_part_is_fetched_once(monkeypatch):
    made = []
    monkeypatch.setitem(realparts.PARTS, "thing", part(lambda target: made.append(target) or "thing 1.0\n"))

    assert realparts.fetch("thing") == realparts.fetch("thing") == made[0]
    assert (made[0] / ".complete").read_text() == "thing 1.0\n"
    assert len(made) == 1


def test_a_failed_attempt_is_repeated_once(monkeypatch):
    attempts = []

    def second_time_lucky(target):
        attempts.append(target)
        if len(attempts) == 1:
            raise realparts.UnavailableError("the mirror hung up")
        return "thing 1.0\n"

    monkeypatch.setitem(realparts.PARTS, "thing", part(second_time_lucky))
    assert realparts.fetch("thing").is_dir()
    assert len(attempts) == 2


def test_a_part_that_is_unavailable_is_not_fetched_again_at_once(monkeypatch):
    attempts = []

    def never(target):
        attempts.append(target)
        raise realparts.UnavailableError("no route to the mirror")

    monkeypatch.setitem(realparts.PARTS, "thing", part(never))
    for _ in range(3):
        with pytest.raises(realparts.UnavailableError, match="no route to the mirror"):
            realparts.fetch("thing")
    assert len(attempts) == realparts.ATTEMPTS

    note = next(realparts.CACHE.glob("thing-*.unavailable"))
    long_ago = time.time() - realparts.FAILURE_HOLDS_SECONDS - 1
    os.utime(note, (long_ago, long_ago))
    with pytest.raises(realparts.UnavailableError):
        realparts.fetch("thing")
    assert len(attempts) == 2 * realparts.ATTEMPTS


def test_a_part_of_an_older_recipe_is_removed(monkeypatch):
    old = realparts.CACHE / "thing-01234567"
    old.mkdir()
    monkeypatch.setitem(realparts.PARTS, "thing", part(lambda _target: "thing 1.0\n"))
    realparts.fetch("thing")
    assert not old.exists()


def unavailable():
    raise realparts.UnavailableError("no Debian mirror among this machine's package sources")


def test_a_test_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="llama cannot be had here: no Debian mirror"):
        realparts.require(unavailable, "llama")


def test_a_test_fails_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="llama cannot be had here: no Debian mirror"):
        realparts.require(unavailable, "llama")
