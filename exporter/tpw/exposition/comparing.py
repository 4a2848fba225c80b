"""A server compared with published figures; see :mod:`tpw.published`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tpw.exposition.figures import figure
from tpw.ledger.books import Books, ServerAccount
from tpw.model import UNKNOWN_MODEL, TokenKind

if TYPE_CHECKING:
    from tpw.exposition.status import ModelStatus
    from tpw.published.figures import Comparison


def comparisons(server: ServerAccount, books: Books) -> Iterator[tuple[str, Comparison]]:
    """What is published about each model of a server that runs on GPUs of one kind, all of them on this node."""
    if not server.up or not server.gpus or not server.window or not server.window[-1].single_node:
        return
    gpus = {books.gpus[uuid].gpu.name for uuid in server.gpus if uuid in books.gpus}
    if len(gpus) != 1:
        return
    (gpu,) = gpus
    from tpw.published.figures import compare

    running = {load.model or UNKNOWN_MODEL: load.running for load in server.loads}
    for model in sorted(model for model, kind in server.tokens if kind is TokenKind.OUTPUT):
        yield model, compare(model, gpu, len(server.gpus), running.get(model))


def published_words(model: ModelStatus) -> str:
    """The nearest published figure of a model with its source, and how its conditions differ; "" where nothing is known of
    its GPUs."""
    row, reason = model["published"], model["published_note"]
    if row is None:
        return f"published: none near ({reason})" if reason else ""
    gpus = "" if row["gpus"] is None else f"{row['gpus']} "
    return (
        f"published: {figure(row['tokens_per_watt'])} on {gpus}{row['gpu']} ({row['source']}, {row['date']};"
        f" {'; '.join(row['differences'])})"
    )
