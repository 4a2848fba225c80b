"""Fields of a section, and the shapes of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from importlib import import_module
from typing import Any, Final, Protocol

JsonSchema = dict[str, Any]
Report = Callable[[str, str], None]
"""Reports a problem: key path, message."""


class _Bad:
    """The type of :data:`BAD`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "BAD"

    def __bool__(self) -> bool:
        return False


BAD: Final[Any] = _Bad()
"""In place of a value that could not be read, so that a file's other problems are found too."""


class Shape(Protocol):
    """What a value may be."""

    @property
    def words(self) -> str:
        """The expected value, to complete the sentence "should be ..."."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one key."""

    shape: Shape
    help: str
    flag: str = ""
    """Name of the command line flag that sets it too, e.g. ``log.level``."""
    default_words: str = ""
    """The default in words, where the value itself does not explain it."""


def setting(
    shape: Shape,
    help: str,  # noqa: A002 - the word of argparse and Prometheus
    *,
    default: Any = MISSING,
    flag: str = "",
    default_words: str = "",
) -> Any:
    """A field of a section. Without a default the key is required."""
    metadata = {"setting": Setting(shape, help, flag, default_words)}
    if default is MISSING:
        return field(metadata=metadata)
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@cache
def settings_of(section: type) -> dict[str, tuple[Setting, Field[Any]]]:
    """The settings of a section by key, in the order they are declared; its own before those of its bases."""
    declared = [name for owner in section.__mro__ for name in vars(owner).get("__annotations__", ())]
    items = sorted(fields(section), key=lambda item: declared.index(item.name))
    return {item.name: (item.metadata["setting"], item) for item in items}


def is_required(item: Field[Any]) -> bool:
    """Whether the key must be given."""
    return item.default is MISSING and item.default_factory is MISSING


def default_of(item: Field[Any]) -> Any:
    """The default of a key that is not required."""
    return item.default_factory() if item.default_factory is not MISSING else item.default


def may_be_empty(shape: Shape) -> bool:
    """Whether a key with no value (all lines below it commented out) counts as left out: lists and mappings."""
    return isinstance(shape, Section | ByKind | ListOf | MapOf)


# --------------------------------------------------------------------------------------------------------------- shapes


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value, parsed from its text in the file.

    ``parse`` raises ValueError with a sentence. ``bare`` values (numbers, switches) may not stand in quotes.
    """

    words: str
    parse: Callable[[str], Any]
    json: Mapping[str, Any]
    bare: bool = False


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path, as text. Relative paths start at the directory of the configuration file. The file need not exist when the
    configuration is read: secrets may be mounted later."""

    words: str = "the path of a file"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list; read as a tuple. With ``or_one``, a single value may stand without the brackets."""

    item: Shape
    words: str
    or_one: bool = False
    unique: bool = False
    gather: Callable[[tuple[Any, ...]], Any] | None = None
    """Makes the setting's value of the items."""


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping with free keys and values of one shape; read as a dict."""

    value: Shape
    words: str
    key_pattern: str = ".+"
    key_words: str = "a name"


@dataclass(frozen=True, slots=True)
class FreeMapping:
    """A mapping that another package interprets; read as a dict of plain values."""

    words: str


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with the settings of a dataclass; read as an object of it. A field that cannot be read is BAD."""

    section: type
    words: str = "a mapping of settings"


@dataclass(frozen=True, slots=True)
class ByKind:
    """A mapping with a key ``kind``, which selects the section."""

    table: Mapping[str, str]
    """Kind -> ``module:class`` of its section. Imported when a file names the kind: an unused source costs nothing."""
    words: str
    default: str = ""
    """The kind where none is given; "" where it is required."""
    definition: str = ""
    """Name under which the JSON Schema defines it once, where it is used in several places."""

    def section(self, kind: str) -> type:
        """The section of a kind. Raises KeyError."""
        module, _, name = self.table[kind].partition(":")
        found: type = getattr(import_module(module), name)
        return found

    def sections(self) -> dict[str, type]:
        """Every section by kind."""
        return {kind: self.section(kind) for kind in self.table}

    def kind(self, settings: object) -> str:
        """The kind of a section's object. Raises StopIteration for one of another table."""
        name = f"{type(settings).__module__}:{type(settings).__qualname__}"
        return next(kind for kind, place in self.table.items() if place == name)


@dataclass(frozen=True, slots=True)
class OrMapping:
    """A single value, or a mapping with more detail."""

    scalar: Shape
    mapping: Shape
    words: str
