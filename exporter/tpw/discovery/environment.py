"""Which GPUs a process may use, by the environment it was started with. Pure functions.

The last resort, where the driver does not say who holds a board: it is what a process was allowed, not what it took.

Facts (CUDA programming guide, environment variables; NVIDIA container toolkit; ROCm, GPU isolation):

- ``CUDA_VISIBLE_DEVICES``: indices or UUIDs (or their beginnings), MIG instances by UUID. The first entry that is none ends
  the list. Indices follow ``CUDA_DEVICE_ORDER``: ``PCI_BUS_ID`` is the driver's own order; the default, ``FASTEST_FIRST``,
  is known only where all boards are of one kind.
- ``NVIDIA_VISIBLE_DEVICES``: what a container was given, by the driver's indices or by UUIDs; indices inside the container
  count what it was given. ``all`` and ``void`` tell nothing.
- ``ROCR_VISIBLE_DEVICES``, ``HIP_VISIBLE_DEVICES`` (and ``CUDA_VISIBLE_DEVICES`` as another name of that): the same for
  AMD; the second counts what the first left.
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
_NOTHING_TOLD = ("", "all", "void", "none")
_OLD_MIG = re.compile(r"MIG-(GPU-[0-9a-f-]+)/")


@dataclass(frozen=True, slots=True)
class Visible:
    """What one process was told about GPUs. None where it was told nothing."""

    cuda: str | None = None
    order: str = ""
    container: str | None = None
    hip: str | None = None
    rocr: str | None = None
    in_container: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str], cgroup: bytes = b"") -> Visible | None:
        """From a process's environment; None where it says nothing about GPUs."""
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
    """GPUs by UUID, and in words what could not be told."""

    gpus: frozenset[str]
    problems: tuple[str, ...] = ()


def allowed(visible: Iterable[Visible], gpus: Sequence[Gpu]) -> Allowed:
    """The GPUs that any of these processes may use, as far as their environments name them."""
    found: set[str] = set()
    problems: dict[str, None] = {}
    for one in visible:
        for vendor, read in (("nvidia", _nvidia), ("amd", _amd)):
            boards = sorted((gpu for gpu in gpus if gpu.vendor == vendor), key=lambda gpu: gpu.index)
            named = read(one, boards)
            if isinstance(named, str):
                problems[named] = None
            elif named is not None:
                found.update(gpu.uuid for gpu in named)
    return Allowed(frozenset(found), tuple(problems))


def named_by(name: str, gpus: Sequence[Gpu]) -> Gpu | None:
    """The board that an identifier names: its UUID or the beginning of it, or that of a MIG instance on it. None where
    none or several are meant."""
    old = _OLD_MIG.match(name)
    wanted = (old[1] if old else name).lower()
    if wanted.startswith("mig-"):
        matches = [gpu for gpu in gpus if any(uuid.lower() == wanted for uuid in gpu.mig_uuids)]
    else:
        matches = [gpu for gpu in gpus if wanted.startswith("gpu-") and gpu.uuid.lower().startswith(wanted)]
    return matches[0] if len(matches) == 1 else None


def _nvidia(visible: Visible, boards: Sequence[Gpu]) -> Sequence[Gpu] | str | None:
    """The boards; what is unclear about them, in words; None where nothing is said."""
    if not boards or (visible.cuda is None and visible.container is None):
        return None
    given = visible.container is not None and visible.container not in _NOTHING_TOLD
    base = sorted(_listed(visible.container or "", boards), key=lambda gpu: gpu.index) if given else boards
    if visible.cuda is None:
        return base if given else None
    entries = _entries(visible.cuda)
    indices = [entry for entry in entries if entry.isdecimal()]
    if indices and visible.in_container and not given:
        return (
            f"CUDA_VISIBLE_DEVICES={visible.cuda} of a process in a container counts the GPUs that the container was given,"
            " and NVIDIA_VISIBLE_DEVICES does not tell which: list the server's `gpus`"
        )
    unequal = len({gpu.name for gpu in base}) > 1
    if indices and unequal and visible.order != "PCI_BUS_ID" and len(set(indices)) < len(base):
        return (
            f"CUDA_VISIBLE_DEVICES={visible.cuda} counts GPUs in an order that is not known where they differ: start the"
            " server with CUDA_DEVICE_ORDER=PCI_BUS_ID or with UUIDs, or list the server's `gpus`"
        )
    return _listed(visible.cuda, base)


def _amd(visible: Visible, boards: Sequence[Gpu]) -> Sequence[Gpu] | None:
    hip = visible.hip if visible.hip is not None else visible.cuda
    if not boards or (hip is None and visible.rocr is None):
        return None
    # ROCm counts dies, of which a board may have several.
    dies = [(die.index, gpu) for gpu in boards for die in gpu.all_dies()]
    boards = [gpu for _, gpu in sorted(dies, key=lambda die: die[0])]
    base = boards if visible.rocr is None else _listed(visible.rocr, boards)
    return base if hip is None else _listed(hip, base)


def _listed(text: str, boards: Sequence[Gpu]) -> Sequence[Gpu]:
    """The boards that a list names, up to its first entry that is none."""
    found: list[Gpu] = []
    for entry in _entries(text):
        if entry.isdecimal():
            named: Sequence[Gpu] = boards[int(entry) :][:1]
        else:
            named = [gpu for gpu in (named_by(entry, tuple(dict.fromkeys(boards))),) if gpu]
        if not named:
            break
        found.extend(named)
    return found


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]
