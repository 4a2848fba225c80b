"""``make fuzz-guided``: readers of foreign bytes under atheris, which follows the coverage of the code.

    make fuzz-guided TARGET=page SECONDS=600

Ends with the input where a reader raises anything but the error it promises.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-not-found] # installed by the target alone

with atheris.instrument_imports(include=["tpw"]):
    from tpw.config import load
    from tpw.config.problems import ConfigError
    from tpw.exposition.http1 import MalformedError, parse_head
    from tpw.tokens.engines import DIALECTS
    from tpw.tokens.page import Page
    from tpw.tokens.reading import DialectReader, recognise

CAPTURES = Path(__file__).parents[1] / "captures"


def page(data: bytes) -> None:
    found = Page(data)
    dialect = recognise(found, DIALECTS)
    if dialect is not None:
        for one in DialectReader(dialect).read(found).series:
            assert 0.0 <= one.value < float("inf")


def head(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        parse_head(data)


def configuration(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        load(data.decode("utf-8", "replace"), "tpw.yaml")


TARGETS: dict[str, tuple[Callable[[bytes], None], str]] = {
    "page": (page, "servers/*.txt"),
    "head": (head, ""),
    "configuration": (configuration, "config/**/*.yaml"),
}


def main() -> None:
    """Fuzz one target with the arguments of libFuzzer, from the captures on."""
    name, *options = sys.argv[1:]
    target, seeds = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, path in enumerate(sorted(CAPTURES.glob(seeds)) if seeds else ()):
            (Path(corpus) / str(number)).write_bytes(path.read_bytes())
        atheris.Setup([sys.argv[0], *options, corpus], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
