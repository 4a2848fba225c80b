"""Reads sources without waiting for one that does not answer.

The tick calls ``begin`` on every poller, then ``finish`` with a deadline, which returns what has arrived. Later results are
in a later reading; a source that hangs is set aside and delays no other. Sources raise :class:`tpw.model.SourceError`; the
pollers catch it, count it, and log when a source goes down or up.
"""

from __future__ import annotations

from tpw.polling.accelerators import AcceleratorPoller
from tpw.polling.health import SourceHealth
from tpw.polling.hosts import HostPoller
from tpw.polling.servers import TokenPoller

__all__ = ["AcceleratorPoller", "HostPoller", "SourceHealth", "TokenPoller"]
