"""Standard modules that libraries import for what the daemon rarely or never calls, loaded when they are used.

structlog imports asyncio for its coroutines, and http.client imports ssl, which maps OpenSSL: 7 of 41 MiB of a daemon that
reads and serves no https.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Any

_NAMES = ("asyncio", "ssl")
_loading = threading.RLock()


class _Postponed(ModuleType):
    """Becomes the module of its name, in place, with the first attribute that is not there; other threads wait for that."""

    def __getattr__(self, name: str) -> Any:
        # Of the names that describe a module, only what is to be imported from it needs it.
        if name == "__all__" or not name.startswith("__"):
            with _loading:
                if type(self) is _Postponed:
                    _load(self)
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _BeingLoaded(ModuleType):
    """While its code runs, what is not there yet is missing, to the thread that runs it."""

    def __getattr__(self, name: str) -> Any:
        with _loading:
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _load(module: _Postponed) -> None:
    spec = module.__spec__
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - see postpone
    module.__class__ = _BeingLoaded  # type: ignore[assignment]
    try:
        spec.loader.exec_module(module)
    except BaseException:
        module.__class__ = _Postponed
        raise
    module.__class__ = ModuleType  # type: ignore[assignment]


class _Submodules:
    """Finds a submodule that is imported first of all (``import asyncio.events``): it comes with its package, and would be
    loaded a second time."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """A spec for a submodule that came with its package just now. ``target`` is one that is to be loaded again."""
        package = sys.modules.get(name.rpartition(".")[0])
        if path is None or target is not None or type(package) is not _Postponed:
            return None
        with suppress(AttributeError):
            package.__all__  # noqa: B018 - loads it
        module = sys.modules.get(name)
        if module is None:
            return None
        self._spec = module.__spec__
        module.__spec__ = spec_from_loader(name, self)  # type: ignore[arg-type]
        return module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The one that is there."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it was."""
        module.__spec__ = self._spec


def postpone() -> None:
    """Call it before structlog is imported. Modules that are loaded already stay as they are."""
    for name in _NAMES:
        spec = None if name in sys.modules else find_spec(name)
        if spec is None or spec.loader is None:
            continue
        module = _Postponed(name)
        module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, spec.parent
        module.__file__ = spec.origin
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        if name == "asyncio":
            # For coroutine functions the same; apscheduler takes it.
            module.iscoroutinefunction = inspect.iscoroutinefunction  # type: ignore[attr-defined]
            sys.meta_path.insert(0, _Submodules())
        sys.modules[name] = module
