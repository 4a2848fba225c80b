"""The NVML binding of the distribution nvidia-ml-py, as the untyped thing it is.

The binding's own annotations promise less than it gives (an error's ``value`` among others), so it is used as ``Any``
here, in one place. Importing it loads no driver library.
"""

from __future__ import annotations

from typing import Any

import pynvml

nvml: Any = pynvml

__all__ = ["nvml"]
