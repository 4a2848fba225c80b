"""Standard modules that libraries import for what the daemon rarely or never calls, loaded when they are used.

structlog imports asyncio for its coroutines, and http.client imports ssl, which maps OpenSSL: 7 of 41 MiB of a daemon that
reads and serves no https.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_NAMES = ("asyncio", "ssl")


class _Postponed(ModuleType):
    """Becomes the module of its name with the first attribute that is not there.

    Submodules can be imported from then on, so not first of all: nothing here or in the libraries does that.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, name)


def postpone() -> None:
    """Call it before structlog is imported. Modules that are loaded already stay as they are."""
    for name in _NAMES:
        spec = None if name in sys.modules else find_spec(name)
        if spec is None:
            continue
        module = _Postponed(name)
        if name == "asyncio":
            # For coroutine functions the same; apscheduler takes it.
            module.iscoroutinefunction = inspect.iscoroutinefunction  # type: ignore[attr-defined]
        sys.modules[name] = module
