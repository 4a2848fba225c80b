"""The watch of this node's pods: started where a service account is there, and again when its settings change."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tpw.config.schema import Kubernetes, Server
from tpw.discovery.engines import Engine
from tpw.ledger.books import Books
from tpw.model import replica_name, server_of_replica

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


@dataclass(frozen=True, slots=True)
class SelectedPods:
    """The pods of configured servers on this node, each a replica with a name and an address of its own."""

    servers: Mapping[str, str]
    """Name of the configured server by name of the replica."""
    addresses: Mapping[str, str]
    """By name of the replica."""
    problems: tuple[str, ...] = ()


_NO_API = (
    "servers with a selector are not read: that needs the Kubernetes API, so give the exporter a service account that may"
    " list and watch pods, and the name of its node"
)


class PodWatch:
    """Watches pods on a thread of its own. All methods belong to the thread of scans."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        """Name of each replica, by configured server and uid of the pod: the same while the pod is there."""
        self._node = ""
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
        node = self._node = settings.node or os.environ.get("NODE_NAME", "")
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
        self._watched = NodePods(api, node, Random().uniform, settings.deployment_labels)  # noqa: S311 - pauses
        threading.Thread(target=self._watched.run, name="pods", daemon=True).start()
        self._watched.tried.wait(FIRST_LIST_SECONDS)

    def selected(self, servers: Sequence[Server], rows: Sequence[Engine], books: Books) -> SelectedPods:
        """The pods that servers of the configuration select.

        Args:
            servers: of the configuration.
            rows: engines, for their usual ports.
            books: the addresses at which replicas were read before this process started.
        """
        selecting = [server for server in servers if server.selector is not None]
        if not selecting:
            return SelectedPods({}, {})
        from tpw.discovery.pods import is_selected, page_of

        found: dict[str, str] = {}
        addresses: dict[str, str] = {}
        problems = () if self._watched is not None else (_NO_API,)
        names: dict[tuple[str, str], str] = {}
        for server in selecting:
            selector = server.selector
            assert selector is not None  # noqa: S101 - chosen above
            engines = [row for row in rows if server.engine in (None, row.name)]
            usual = [port for row in engines for port in (row.port, *row.other_ports) if port is not None]
            scheme = "http" if server.tls is None else "https"
            pages = {
                pod.uid: url
                for pod in self.pods().values()
                if selector.node in (None, self._node)
                and is_selected(pod, selector.namespace, selector.labels)
                and (url := page_of(pod, selector.port, usual, scheme))
            }
            for uid, name in self._named(server.name, pages, books).items():
                names[server.name, uid] = name
                found[name], addresses[name] = server.name, pages[uid]
        self._names = names
        return SelectedPods(found, addresses, problems)

    def _named(self, server: str, pages: Mapping[str, str], books: Books) -> dict[str, str]:
        """The name of each replica by the uid of its pod."""
        before = {one.address: name for name, one in books.servers.items() if server_of_replica(name) == server}
        named: dict[str, str] = {}
        for uid, url in pages.items():
            name = self._names.get((server, uid)) or before.get(url)
            if name is not None and name not in named.values():
                named[uid] = name
        free = (server if number == 1 else replica_name(server, number) for number in range(1, len(pages) + 1))
        unused = (name for name in free if name not in set(named.values()))
        return {uid: named.get(uid) or next(unused) for uid in sorted(pages, key=lambda uid: (uid not in named, uid))}
