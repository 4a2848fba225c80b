"""Settings with a flag and an environment variable. A flag overrides the environment, which overrides the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode

from tpw.config.nodes import Origin
from tpw.config.schema import Config
from tpw.settings.shapes import Scalar, Section, default_of, settings_of

_STR = "tag:yaml.org,2002:str"
_MAP = "tag:yaml.org,2002:map"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``path`` is the key path of its setting."""

    name: str
    """Without the dashes: ``web.listen-address``."""
    path: str
    help: str
    default: Any
    is_switch: bool = False
    """Whether it may stand without a value, which means true."""

    @property
    def environment(self) -> str:
        """Its environment variable: ``TPW_WEB_LISTEN_ADDRESS``."""
        return environment_name(self.name)


@dataclass(frozen=True, slots=True)
class Override:
    """A value that overrides the file's. ``origin`` is the flag or variable, for messages."""

    path: str
    text: str
    origin: str


def environment_name(flag: str) -> str:
    """Environment variable of a flag."""
    return "TPW_" + flag.upper().replace(".", "_").replace("-", "_")


def flags(section: type = Config, prefix: str = "") -> tuple[Flag, ...]:
    """All flags of settings, in the order of the file. ``--config.file`` names the file and is not one of them."""
    found: list[Flag] = []
    for key, (meaning, item) in settings_of(section).items():
        path = f"{prefix}{key}"
        if isinstance(meaning.shape, Section):
            found.extend(flags(meaning.shape.section, f"{path}."))
        elif meaning.flag:
            is_switch = isinstance(meaning.shape, Scalar) and meaning.shape.json.get("type") == "boolean"
            found.append(Flag(meaning.flag, path, meaning.help, default_of(item), is_switch))
    return tuple(found)


def overrides(given: Mapping[str, str | None], environment: Mapping[str, str]) -> tuple[Override, ...]:
    """The settings of the command line (flag name -> text, None where not given) and the environment.

    An empty environment variable counts as unset.
    """
    result: list[Override] = []
    for flag in flags():
        from_flag = given.get(flag.name)
        if from_flag is not None:
            result.append(Override(flag.path, from_flag, f"--{flag.name}"))
        elif environment.get(flag.environment):
            result.append(Override(flag.path, environment[flag.environment], flag.environment))
    return tuple(result)


def laid_over(root: Node | None, given: Sequence[Override]) -> Node | None:
    """The tree with the overrides in place of the file's values."""
    if not given or not (root is None or isinstance(root, MappingNode)):
        return root
    tree = MappingNode(_MAP, list(root.value), root.start_mark) if root is not None else _mapping(Origin("flags"))
    for override in given:
        *sections, key = override.path.split(".")
        origin = Origin(override.origin)
        node = tree
        for name in sections:
            node = _section(node, name, origin)
        _put(node, key, _scalar(override.text, origin), origin)
    return tree


def _scalar(text: str, mark: Any) -> ScalarNode:
    return ScalarNode(_STR, text, mark)


def _mapping(mark: Any) -> MappingNode:
    return MappingNode(_MAP, [], mark)


def _section(parent: MappingNode, name: str, origin: Origin) -> MappingNode:
    """A copy of a section, put in its place, so that the file's own tree is unchanged."""
    for key, value in parent.value:
        if key.value == name and isinstance(value, MappingNode):
            copy = MappingNode(_MAP, list(value.value), value.start_mark)
            parent.value = [(key, copy) if key.value == name else (key, other) for key, other in parent.value]
            return copy
        if key.value == name and not (isinstance(value, ScalarNode) and value.tag.endswith(":null")):
            return _mapping(origin)  # the file's value is not a section, which is reported
    section = _mapping(origin)
    _put(parent, name, section, origin)
    return section


def _put(parent: MappingNode, key: str, value: Node, origin: Origin) -> None:
    others = [(other_key, other) for other_key, other in parent.value if other_key.value != key]
    parent.value = [*others, (_scalar(key, origin), value)]
