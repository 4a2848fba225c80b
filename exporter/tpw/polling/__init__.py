"""Looking at sources without ever waiting for one that does not answer.

The tick calls ``begin`` on every poller, then ``finish`` with a deadline, and takes what has come by then. What comes
later comes with a later look; what hangs is set aside and costs nobody else anything. Sources raise
:class:`tpw.model.SourceError`; here it is caught, once, counted, and logged when a source goes down or comes back.
"""

from __future__ import annotations

from tpw.polling.accelerators import AcceleratorPoller
from tpw.polling.health import SourceHealth
from tpw.polling.hosts import HostPoller
from tpw.polling.servers import TokenPoller

__all__ = ["AcceleratorPoller", "HostPoller", "SourceHealth", "TokenPoller"]
