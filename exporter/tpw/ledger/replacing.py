"""``dataclasses.replace`` for the records of the ledger, in a third of its time.

Every tick replaces several records of each GPU and server: a ``replace`` that checks every field and calls ``__init__``
took a sixth of a tick. This one is compiled once per class, as dataclasses compile their ``__init__``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # For its types: the names and types of the fields are checked at every call.
    from dataclasses import replace
else:

    def replace(record, /, **changes):
        """A copy of a frozen dataclass with slots, with some fields changed."""
        kind = type(record)
        copy = _copies.get(kind)
        if copy is None:
            copy = _copies[kind] = _compiled(kind)
        return copy(record, changes)


__all__ = ["replace"]

_copies: dict[type, Callable[[Any, dict[str, Any]], Any]] = {}


def _compiled(kind: type) -> Callable[[Any, dict[str, Any]], Any]:
    """Makes a copy of an object of ``kind`` with changes. Raises TypeError for a class that needs its ``__init__``."""
    names = [one.name for one in fields(kind)]
    if hasattr(kind, "__post_init__") or "__slots__" not in vars(kind):
        raise TypeError(f"{kind.__name__} is no plain dataclass with slots")
    setters = {f"set_{name}": vars(kind)[name].__set__ for name in names}
    lines = [f"    set_{name}(copy, changes['{name}'] if '{name}' in changes else record.{name})" for name in names]
    scope: dict[str, Any] = {"kind": kind, "names": frozenset(names), "new": object.__new__, **setters}
    source = "\n".join(
        [
            "def copied(record, changes):",
            "    if not names.issuperset(changes):",
            "        raise TypeError(f'{kind.__name__} has no field {sorted(changes.keys() - names)}')",
            "    copy = new(kind)",
            *lines,
            "    return copy",
        ]
    )
    exec(source, scope)  # noqa: S102 - of names of fields in this package
    copied: Callable[[Any, dict[str, Any]], Any] = scope["copied"]
    return copied
