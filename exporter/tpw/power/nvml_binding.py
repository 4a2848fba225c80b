"""The NVML binding of the distribution nvidia-ml-py, untyped: its annotations lack, for example, an error's ``value``.

Importing it does not load the driver's library.
"""

from __future__ import annotations

from typing import Any

import pynvml

nvml: Any = pynvml

__all__ = ["nvml"]
