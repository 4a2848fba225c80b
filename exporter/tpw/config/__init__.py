"""The configuration: a YAML file, flags and environment variables, read into one typed, frozen object.

``load_file`` returns a :class:`Config` or raises :class:`ConfigError` with every problem, each with file, line and key
path. Nothing here opens a device, a socket or a second file.
"""

from __future__ import annotations

from tpw.config.checks import Known
from tpw.config.flags import Flag, Override, environment_name, flags, overrides
from tpw.config.load import load, load_file
from tpw.config.problems import ConfigError, Problem
from tpw.config.schema import Config

__all__ = [
    "Config",
    "ConfigError",
    "Flag",
    "Known",
    "Override",
    "Problem",
    "environment_name",
    "flags",
    "load",
    "load_file",
    "overrides",
]
