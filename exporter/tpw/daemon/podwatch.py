"""The watch of this node's pods: started where a service account is there, and again when its settings change."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from random import uniform
from typing import TYPE_CHECKING

from tpw.config.schema import Kubernetes

if TYPE_CHECKING:
    from tpw.discovery.kubernetes import NodePods
    from tpw.discovery.pods import Pod

FIRST_LIST_SECONDS = 5.0
"""How long the first scan waits for the names of pods: a server keeps the name by which it was found."""

_NO_NODE = (
    "a service account is mounted, but the name of this node is not known, so the Kubernetes API is not read: set"
    " NODE_NAME to spec.nodeName"
)


def address_of_api(settings: Kubernetes, environment: Mapping[str, str]) -> str:
    """The address of the API server; "" where it is not to be read."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if settings.url is None and not host:
        return ""
    if not Path(settings.token_file).exists():
        return ""
    return settings.url or f"https://{f'[{host}]' if ':' in host else host}:{port}"


class PodWatch:
    """Watches pods on a thread of its own. All methods belong to the thread of scans."""

    def __init__(self) -> None:
        self._settings: Kubernetes | None = None
        self._watched: NodePods | None = None
        self._lacks_node = False

    def pods(self) -> Mapping[str, Pod]:
        """The pods of this node by uid, as known now."""
        return {} if self._watched is None else self._watched.pods

    def problems(self) -> tuple[str, ...]:
        """Why the API is not read though a service account is there, as a sentence."""
        if self._lacks_node:
            return (_NO_NODE,)
        return () if self._watched is None or not self._watched.problem else (self._watched.problem,)

    def update(self, settings: Kubernetes) -> None:
        """Watch by these settings from now on; waits a moment for the first list."""
        if settings == self._settings:
            return
        self._settings = settings
        if self._watched is not None:
            self._watched.stop()
            self._watched = None
        address = address_of_api(settings, os.environ)
        node = settings.node or os.environ.get("NODE_NAME", "")
        self._lacks_node = bool(address) and not node
        if not address or not node:
            return
        from tpw.discovery.kubernetes import MOST_BYTES, NodePods  # only nodes of a cluster pay for it
        from tpw.http.client import Client, Tls

        api = Client(
            address,
            max_bytes=MOST_BYTES,
            headers_file=settings.token_file,
            tls=Tls(settings.ca_file) if address.startswith("https:") else None,
        )
        self._watched = NodePods(api, node, uniform, settings.deployment_labels)
        threading.Thread(target=self._watched.run, name="pods", daemon=True).start()
        self._watched.tried.wait(FIRST_LIST_SECONDS)
