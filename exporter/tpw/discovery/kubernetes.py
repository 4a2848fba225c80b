"""The pods of this node from the Kubernetes API: a list, and a watch that goes on from it.

Rights: ``list`` and ``watch`` of ``pods``, in the whole cluster. Only the pods of one node are requested, and the list is
answered from the API server's memory (``resourceVersion=0``).

Facts (kubernetes.io, "Kubernetes API concepts"): a watch sends one JSON object per line; ``BOOKMARK`` has only a newer
``resourceVersion``; a version that is too old ends with HTTP 410, or with an ``ERROR`` of code 410 within the watch.
The token of a service account is replaced in its file long before it expires; an answer 401 means that an old one was sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlencode

from tpw.discovery.pods import Pod, pod_of_object
from tpw.http.client import Client
from tpw.http.messages import StatusError, json_of, status_error
from tpw.model import Reason, SourceError

_PATH = "/api/v1/pods"
_JSON = {"Accept": "application/json"}
LIST_SECONDS = 30.0
WATCH_SECONDS = 300
"""After which the server ends a watch. Short enough that a connection that was lost silently is noticed."""
MOST_BYTES = 64 << 20
"""Of a list. A node has a few hundred pods of at most some 100 KiB."""
_FIRST_WAIT_SECONDS, _MOST_WAIT_SECONDS = 1.0, 60.0
_FORBIDDEN_WAIT_SECONDS = 300.0
_FAILURES = 3
"""Failures in sequence after which the API is reported as a problem: an API server that restarts is none."""

Spread = Callable[[float, float], float]
"""A random number between two."""


class Api(Protocol):
    """The part of :class:`tpw.http.client.Client` that is used here."""

    request: Any
    lines: Any


class _ExpiredError(Exception):
    """The version to go on from is no longer known."""


class NodePods:
    """Keeps the pods of one node. :meth:`run` is for a thread of its own; everything else for any thread.

    Args:
        api: a client of the API server, with the token as its headers file.
        node: name of the node.
        spread: of the waits, so that a fleet does not return at once.
        deployment_labels: see :func:`tpw.discovery.pods.pod_of_object`.
    """

    def __init__(self, api: Client | Api, node: str, spread: Spread, deployment_labels: Sequence[str] = ()) -> None:
        self._api = api
        self._node = node
        self._spread = spread
        self._deployment_labels = tuple(deployment_labels)
        self._version = ""
        self._failures = 0
        self._stopped = threading.Event()
        self.pods: Mapping[str, Pod] = {}
        """By uid. Replaced as a whole. The last ones known while the API cannot be read."""
        self.problem = ""
        """Why the API is not read, as a sentence; "" while it is."""
        self.tried = threading.Event()
        """Set when the first list has ended, however it did."""

    def run(self) -> None:
        """List and watch until :meth:`stop`."""
        while not self._stopped.is_set():
            wait = self.step()
            if wait > 0.0:
                self._stopped.wait(wait)

    def stop(self) -> None:
        """End :meth:`run` after the event or the watch that it waits for."""
        self._stopped.set()

    def step(self) -> float:
        """One list, if one is needed, and one watch. Returns how long to wait before the next. Never raises."""
        try:
            if not self._version:
                self._list()
            self.tried.set()
            self._watch()
        except _ExpiredError:
            self._version = ""
            return self._spread(0.0, _FIRST_WAIT_SECONDS)
        except SourceError as failure:
            return self._failed(failure)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            return self._failed(SourceError(Reason.MALFORMED, "the answer is not a list of pods"))
        finally:
            self.tried.set()
        return self._spread(0.0, _FIRST_WAIT_SECONDS)

    def _failed(self, failure: SourceError) -> float:
        self._failures += 1
        status = failure.status if isinstance(failure, StatusError) else 0
        if status == 403:
            self.problem = (
                "the Kubernetes API does not allow this service account to list and watch pods, so they are named by the"
                " kubelet's logs, and their labels are unknown: bind it to a cluster role with these rights"
            )
            self._version = ""
            return self._spread(0.5, 1.0) * _FORBIDDEN_WAIT_SECONDS
        if status == 401 and self._failures == 1:
            return 0.0  # the next connection reads the token again
        if self._failures >= _FAILURES:
            self.problem = (
                f"the Kubernetes API cannot be read ({failure.reason}), so pods are named as last known, else by the"
                " kubelet's logs: check the address, the certificate authority and the token of the service account"
            )
        wait = min(_MOST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** min(self._failures - 1, 10))
        return self._spread(0.5, 1.0) * wait

    def _succeeded(self) -> None:
        self._failures = 0
        self.problem = ""

    def _target(self, **query: str) -> str:
        return f"{_PATH}?{urlencode({'fieldSelector': f'spec.nodeName={self._node}', **query})}"

    def _list(self) -> None:
        target = self._target(resourceVersion="0")
        answer = self._api.request(target, headers=_JSON, timeout_seconds=LIST_SECONDS)
        if answer.status != 200:
            raise status_error(_PATH, answer)
        document = json_of(answer.body, "the list of pods")
        pods = [self._pod(item) for item in document.get("items") or ()]
        version = document["metadata"]["resourceVersion"]
        self.pods = {pod.uid: pod for pod in pods}
        self._version = version
        self._succeeded()

    def _watch(self) -> None:
        target = self._target(
            watch="1", allowWatchBookmarks="true", resourceVersion=self._version, timeoutSeconds=str(WATCH_SECONDS)
        )
        try:
            for line in self._api.lines(target, timeout_seconds=WATCH_SECONDS + LIST_SECONDS, headers=_JSON):
                self._receive(json_of(line, "an event of the watch"))
                if self._stopped.is_set():
                    break
        except StatusError as failure:
            if failure.status == 410:
                raise _ExpiredError from None
            raise
        self._succeeded()

    def _receive(self, event: Mapping[str, Any]) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise _ExpiredError
            raise SourceError(Reason.BROKEN, "the watch has ended with an error")
        if kind in ("ADDED", "MODIFIED"):
            pod = self._pod(item)
            self.pods = {**self.pods, pod.uid: pod}
        elif kind == "DELETED":
            uid = self._pod(item).uid
            self.pods = {known: pod for known, pod in self.pods.items() if known != uid}
        self._version = item["metadata"]["resourceVersion"]
        self._succeeded()

    def _pod(self, item: Mapping[str, Any]) -> Pod:
        return pod_of_object(item, self._deployment_labels)
