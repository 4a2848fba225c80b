"""Which GPUs a process may use, from the environment it was started with. Pure functions.

The last resort if the driver does not list the processes on a GPU: it shows what a process was allowed to use, not what it
uses.

Facts (CUDA programming guide, environment variables; NVIDIA container toolkit; ROCm, GPU isolation):

- ``CUDA_VISIBLE_DEVICES``: indices or UUIDs (or their prefixes), MIG instances by UUID. The first invalid entry ends the
  list. Indices follow ``CUDA_DEVICE_ORDER``: ``PCI_BUS_ID`` is the driver's own order; the default, ``FASTEST_FIRST``, is
  known only if all GPUs are of one model.
- ``NVIDIA_VISIBLE_DEVICES``: the GPUs of a container, by the driver's indices or by UUIDs; indices inside the container
  count these GPUs. ``all`` and ``void`` name none.
- ``ROCR_VISIBLE_DEVICES``, ``HIP_VISIBLE_DEVICES`` (with ``CUDA_VISIBLE_DEVICES`` as a synonym): the same for AMD; the
  second counts the devices that the first leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tpw.model import Gpu

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)

_CONTAINER = re.compile(rb"docker|containerd|kubepods|crio|libpod|lxc|podman")
_NAMES_NO_GPU = ("", "all", "void", "none")
_OLD_MIG = re.compile(r"MIG-(GPU-[0-9a-f-]+)/")


@dataclass(frozen=True, slots=True)
class Visible:
    """The GPU variables in one process's environment. None if a variable is not set."""

    cuda: str | None = None
    order: str = ""
    container: str | None = None
    hip: str | None = None
    rocr: str | None = None
    in_container: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], cgroup: bytes = b"") -> Visible | None:
        """None if the environment names no GPUs."""
        if not any(environment.get(name) is not None for name in VARIABLES if name != "CUDA_DEVICE_ORDER"):
            return None
        return cls(
            environment.get("CUDA_VISIBLE_DEVICES"),
            environment.get("CUDA_DEVICE_ORDER", ""),
            environment.get("NVIDIA_VISIBLE_DEVICES"),
            environment.get("HIP_VISIBLE_DEVICES"),
            environment.get("ROCR_VISIBLE_DEVICES"),
            _CONTAINER.search(cgroup) is not None,
        )


@dataclass(frozen=True, slots=True)
class Allowed:
    """GPUs by UUID, and sentences about what is unclear."""

    gpus: frozenset[str]
    problems: tuple[str, ...] = ()


def allowed(visible: Iterable[Visible], gpus: Sequence[Gpu]) -> Allowed:
    """The GPUs that any of these processes may use, according to their environments."""
    found: set[str] = set()
    problems: dict[str, None] = {}
    for environment in visible:
        for vendor, read in (("nvidia", _nvidia), ("amd", _amd)):
            candidates = sorted((gpu for gpu in gpus if gpu.vendor == vendor), key=lambda gpu: gpu.index)
            named = read(environment, candidates)
            if isinstance(named, str):
                problems[named] = None
            elif named is not None:
                found.update(gpu.uuid for gpu in named)
    return Allowed(frozenset(found), tuple(problems))


def gpu_by_uuid(name: str, gpus: Sequence[Gpu]) -> Gpu | None:
    """The GPU with this UUID or UUID prefix, or with the MIG instance of this UUID. None if no GPU or several match."""
    old = _OLD_MIG.match(name)
    wanted = (old[1] if old else name).lower()
    if wanted.startswith("mig-"):
        matches = [gpu for gpu in gpus if any(uuid.lower() == wanted for uuid in gpu.mig_uuids)]
    else:
        matches = [gpu for gpu in gpus if wanted.startswith("gpu-") and gpu.uuid.lower().startswith(wanted)]
    return matches[0] if len(matches) == 1 else None


def _nvidia(visible: Visible, gpus: Sequence[Gpu]) -> Sequence[Gpu] | str | None:
    """The GPUs; a sentence if they are ambiguous; None if no variable names any."""
    if not gpus or (visible.cuda is None and visible.container is None):
        return None
    is_assigned = visible.container is not None and visible.container not in _NAMES_NO_GPU
    base = sorted(_listed(visible.container or "", gpus), key=lambda gpu: gpu.index) if is_assigned else gpus
    if visible.cuda is None:
        return base if is_assigned else None
    entries = _entries(visible.cuda)
    indices = [entry for entry in entries if entry.isdecimal()]
    if indices and visible.in_container and not is_assigned:
        return (
            f"CUDA_VISIBLE_DEVICES={visible.cuda} of a process in a container counts the container's GPUs, and"
            " NVIDIA_VISIBLE_DEVICES does not name them: list the server's `gpus`"
        )
    is_mixed = len({gpu.name for gpu in base}) > 1
    if indices and is_mixed and visible.order != "PCI_BUS_ID" and len(set(indices)) < len(base):
        return (
            f"CUDA_VISIBLE_DEVICES={visible.cuda} counts GPUs of different models in CUDA's own order, which is unknown"
            " here: start the server with CUDA_DEVICE_ORDER=PCI_BUS_ID or with UUIDs, or list the server's `gpus`"
        )
    return _listed(visible.cuda, base)


def _amd(visible: Visible, gpus: Sequence[Gpu]) -> Sequence[Gpu] | None:
    hip = visible.hip if visible.hip is not None else visible.cuda
    if not gpus or (hip is None and visible.rocr is None):
        return None
    # ROCm counts dies, of which a GPU may have several.
    dies = [(die.index, gpu) for gpu in gpus for die in gpu.all_dies()]
    gpus = [gpu for _, gpu in sorted(dies, key=lambda die: die[0])]
    base = gpus if visible.rocr is None else _listed(visible.rocr, gpus)
    return base if hip is None else _listed(hip, base)


def _listed(text: str, gpus: Sequence[Gpu]) -> Sequence[Gpu]:
    """The GPUs in a list, up to its first invalid entry."""
    found: list[Gpu] = []
    for entry in _entries(text):
        if entry.isdecimal():
            named: Sequence[Gpu] = gpus[int(entry) :][:1]
        else:
            named = [gpu for gpu in (gpu_by_uuid(entry, tuple(dict.fromkeys(gpus))),) if gpu]
        if not named:
            break
        found.extend(named)
    return found


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]
