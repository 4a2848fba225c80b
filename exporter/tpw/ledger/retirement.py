"""Which servers and models are gone for so long that their series leave the page. Their sums stay in the books."""

from __future__ import annotations

from dataclasses import dataclass

from tpw.ledger.books import Books

FORGOTTEN = "(forgotten)"
"""Server that has the sums of servers that an operator made the books forget."""


@dataclass(frozen=True, slots=True)
class Retired:
    """Servers, and (server, model) of servers that are not retired themselves."""

    servers: frozenset[str] = frozenset()
    models: frozenset[tuple[str, str]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.servers or self.models)

    def __contains__(self, who: tuple[str, str]) -> bool:
        """Whether a (server, model) is retired."""
        return who[0] in self.servers or who in self.models


def retired(books: Books, after_seconds: float, now_seconds: float) -> Retired:
    """Who was last there more than ``after_seconds`` ago. A server that is polled, or owns a GPU, is there."""
    before = now_seconds - after_seconds
    servers: set[str] = set()
    models: set[tuple[str, str]] = set()
    for name, account in books.servers.items():
        if name == FORGOTTEN:
            servers.add(name)
        elif account.up or account.gpus:
            gone = {model for model, at in account.seen.items() if model and at < before} - set(account.models)
            models.update((name, model) for model in gone)
        elif account.seen.get("", now_seconds) < before:
            servers.add(name)
    return Retired(frozenset(servers), frozenset(models))
