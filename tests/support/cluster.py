"""A real Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager, with RBAC and admission.

There is no kubelet and no scheduler: a test makes a Node, binds pods to it and writes their status, as those would. What
a server, a manifest or a client of the API meets is otherwise what it meets in a cluster of that release (1.20).
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import realparts
from support.servers import Child, HttpStatusError, free_port, wait_until

READY_SECONDS = 90.0


@dataclass(slots=True)
class ControlPlane:
    """A running control plane. ``api`` is its address, ``ca`` the file that verifies it, ``token`` an administrator's."""

    directory: Path
    binaries: Path
    api: str
    token: str
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def ca(self) -> Path:
        """The certificate of the API server."""
        return self.directory / "certs" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    # ------------------------------------------------------------------------------------------------------------ requests

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        content: str = "application/json",
        timeout: float = 10.0,
    ) -> Any:
        """The answer of the API to a request, as the administrator or with another token; of a watch, its events.

        Raises HttpStatusError.
        """
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": content}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}{path}", data, headers, method=method)
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                raise HttpStatusError(error.code, error.read().decode(errors="replace")) from None
        if "watch=" in path:
            return [json.loads(line) for line in text.splitlines()]
        return json.loads(text) if text.startswith(("{", "[")) else text

    def patch(self, path: str, body: object) -> Any:
        """A merge patch."""
        return self.request("PATCH", path, body, content="application/merge-patch+json")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints. AssertionError with its complaint where it fails."""
        done = self.try_kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def try_kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """The same, for a command that may fail."""
        command = [str(self.binaries / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)

    def service_account_token(self, namespace: str, name: str) -> str:
        """The token that a pod with this service account has mounted."""

        def read() -> str:
            account = self.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}")
            for reference in account.get("secrets", ()):
                secret = self.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{reference['name']}")
                return base64.b64decode(secret["data"]["token"]).decode()
            return ""

        return wait_until(read, f"a token of {namespace}/{name}")

    # -------------------------------------------------------------------------------- what kubelet and scheduler would do

    def make_node(self, name: str, labels: Mapping[str, str] | None = None, *, pods: int = 110) -> None:
        """A Node that is ready and stays so."""
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}
        self.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        status = {
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "allocatable": {"pods": str(pods), "cpu": "64", "memory": "512Gi"},
            "capacity": {"pods": str(pods), "cpu": "64", "memory": "512Gi"},
        }
        self.patch(f"/api/v1/nodes/{name}/status", {"status": status})

    def make_namespace(self, name: str) -> None:
        """A namespace in which pods are admitted: its default service account is there."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        self.service_account_token(name, "default")

    def make_pod(self, namespace: str, pod: Mapping[str, Any], *, node: str, ip: str = "") -> dict[str, Any]:
        """Create a pod, bind it to a node and let it run and be ready. Returns it as the API has it."""
        made = self.request("POST", f"/api/v1/namespaces/{namespace}/pods", {"apiVersion": "v1", "kind": "Pod", **pod})
        self.bind(namespace, made["metadata"]["name"], node)
        return self.run_pod(namespace, made["metadata"]["name"], ip=ip)

    def bind(self, namespace: str, pod: str, node: str) -> None:
        """What the scheduler does."""
        body = {"metadata": {"name": pod}, "target": {"apiVersion": "v1", "kind": "Node", "name": node}}
        self.request("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/binding", {"kind": "Binding", **body})

    def run_pod(self, namespace: str, name: str, *, ip: str = "") -> dict[str, Any]:
        """What the kubelet reports of a pod that runs and is ready; its container ids are random."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        pod = self.request("GET", path)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        containers = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "containerID": f"containerd://{secrets.token_hex(32)}",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ]
        status: dict[str, Any] = {
            "phase": "Running",
            "startTime": now,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": now}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "containerStatuses": containers,
        }
        if ip:
            status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        return dict(self.patch(f"{path}/status", {"status": status}))

    def delete_pod(self, namespace: str, name: str) -> None:
        """At once: no kubelet confirms the end of a pod that is bound."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        self.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", body)

    # ------------------------------------------------------------------------------------------------------------- servers

    def start_etcd(self) -> None:
        """Start the store."""
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._launch(
            "etcd",
            *("--name", "test", "--data-dir", str(self.directory / "etcd")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"test={peer}"),
        )
        (self.directory / "etcd.url").write_text(client)

    def start_apiserver(self) -> None:
        """Start the API server, on the same port again after ``stop_apiserver``: what a client of a watch meets."""
        key = self.directory / "sa.key"
        self._launch(
            "kube-apiserver",
            *("--etcd-servers", (self.directory / "etcd.url").read_text()),
            *("--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"),
            *("--secure-port", self.api.rpartition(":")[2], "--cert-dir", str(self.directory / "certs")),
            *("--token-auth-file", str(self.directory / "tokens.csv"), "--authorization-mode", "Node,RBAC"),
            *("--enable-admission-plugins", "NodeRestriction", "--allow-privileged"),
            *("--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", str(key)),
            *("--service-account-signing-key-file", str(key), "--service-cluster-ip-range", "10.0.0.0/24"),
        )
        self._wait("kube-apiserver", lambda: self.request("GET", "/readyz", timeout=2.0) == "ok")

    def stop_apiserver(self, *, hard: bool = False) -> None:
        """Stop it: connections are closed. ``hard``: with SIGKILL."""
        child = self.children.pop("kube-apiserver")
        child.kill() if hard else child.stop()

    def start_controllers(self) -> None:
        """Start the controllers, and wait until pods are admitted. A Node needs no heartbeat for a day."""
        self._launch(
            "kube-controller-manager",
            *("--kubeconfig", str(self.directory / "manager.kubeconfig"), "--use-service-account-credentials"),
            *("--service-account-private-key-file", str(self.directory / "sa.key"), "--root-ca-file", str(self.ca)),
            *("--bind-address", "127.0.0.1", "--secure-port", str(free_port()), "--port", "0"),
            *("--cert-dir", str(self.directory / "certs"), "--leader-elect=false"),
            *("--node-monitor-grace-period", "24h", "--node-startup-grace-period", "24h"),
        )
        self._wait("kube-controller-manager", lambda: bool(self.service_account_token("default", "default")))

    def _launch(self, name: str, *arguments: str) -> None:
        self.children[name] = Child(f"{self.directory.name}-{name}", [str(self.binaries / name), *arguments])

    def _wait(self, name: str, ready: Any) -> None:
        child = self.children[name]

        def answers() -> bool:
            if child.process.poll() is not None:
                raise AssertionError(f"{name} ended with {child.process.returncode}:\n{child.tail()}")
            return bool(ready())

        try:
            wait_until(answers, name, timeout=READY_SECONDS, every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{child.tail()}") from None


def _kubeconfig(plane: ControlPlane, token: str) -> str:
    named = {"server": plane.api, "certificate-authority": str(plane.ca)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": named}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me"}}],
            "current-context": "test",
        }
    )


@contextmanager
def control_plane(directory: Path) -> Iterator[ControlPlane]:
    """One that admits pods, with its state in ``directory``; ready after 10 s. Its logs are in ``build/e2e-logs``."""
    binaries = realparts.kubernetes_dir()
    directory.mkdir(mode=0o700, exist_ok=True)
    admin, manager = secrets.token_hex(16), secrets.token_hex(16)
    plane = ControlPlane(directory, binaries, f"https://127.0.0.1:{free_port()}", admin)
    users = [f'{admin},admin,admin,"system:masters"', f"{manager},system:kube-controller-manager,manager"]
    (directory / "tokens.csv").write_text("\n".join(users) + "\n")
    command = ["openssl", "genrsa", "-out", str(directory / "sa.key"), "2048"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    plane.kubeconfig.write_text(_kubeconfig(plane, admin))
    (directory / "manager.kubeconfig").write_text(_kubeconfig(plane, manager))
    with ExitStack() as stack:
        stack.callback(lambda: [child.stop() for child in reversed(plane.children.values())])
        plane.start_etcd()
        plane.start_apiserver()
        plane.start_controllers()
        yield plane
