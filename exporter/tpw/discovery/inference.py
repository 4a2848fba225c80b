"""Which process holds a listening socket, where the open files of processes cannot be read. Pure functions.

Any user can read, for every process, its network namespace, user, command line and cgroup, and for every socket its
namespace, port and user. That is nearly always enough: in a container, one program listens on a port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tpw.discovery.engines import Engine
from tpw.discovery.naming import is_starter, listens_as, ports_named
from tpw.discovery.procfs import Listener, Process
from tpw.discovery.workload import Cgroup


def likely_holders(
    listener: Listener,
    candidates: Sequence[Process],
    engines: Sequence[Engine],
    user_of: Callable[[int], int | None],
    cgroup_of: Callable[[int], Cgroup],
) -> tuple[int, ...]:
    """The processes that hold a socket by the best evidence there is; empty if several programs may hold it.

    Of a process and its children, the process alone: children inherit sockets and command lines. The evidence, best first:

    1. an engine that names the port on its command line;
    2. any program that names it;
    3. the engine with that usual port that names no port;
    4. in a container or a pod of its own network namespace: the only engine, if it names no port;
    5. there: the only container; else the pod, of which any container may listen.

    Args:
        listener: the socket.
        candidates: processes of its network namespace with open files that cannot be read.
        engines: known engines.
        user_of: the user of a process.
        cgroup_of: what its cgroup names.
    """
    of_user = [one for one in candidates if user_of(one.pid) == listener.uid] or list(candidates)
    engines_of = {one.pid: listens_as(one, engines) for one in of_user}
    ports_of = {one.pid: _ports(one) for one in of_user}
    naming = [one for one in of_user if listener.port in ports_of[one.pid]]
    silent = [one for one in of_user if engines_of[one.pid] and not ports_of[one.pid]]
    usual = [one for one in silent if any(listener.port in (e.port, *e.other_ports) for e in engines_of[one.pid])]
    named_by_engines = _topmost(one for one in naming if engines_of[one.pid])
    evident = named_by_engines or _topmost(naming)
    if evident:
        return _pids(evident)
    if len(by_usual_port := _topmost(usual)) == 1:
        return _pids(by_usual_port)
    # In the namespace of the host many programs listen, of which none may be known.
    groups = [cgroup_of(one.pid) for one in candidates]
    if len({group.pod or group.container for group in groups} - {""}) != 1 or not all(
        group.pod or group.container for group in groups
    ):
        return ()
    if len(only_engine := _topmost(silent)) == 1:
        return _pids(only_engine)
    return _pids(_topmost(of_user))


def _pids(processes: Sequence[Process]) -> tuple[int, ...]:
    return tuple(one.pid for one in processes)


def _ports(process: Process) -> frozenset[int]:
    """Ports that a process listens on, by its command line. Docker's proxy names the port of its target as well."""
    argv = process.argv
    if argv and argv[0].rpartition("/")[2] == "docker-proxy" and "-host-port" in argv:
        return ports_named(argv[argv.index("-host-port") :][:2])
    return ports_named(argv)


def _topmost(processes: Iterable[Process]) -> list[Process]:
    """Without children of others among them, and without starters (an init, a shell) unless there are no others."""
    all_of = list(processes)
    some = [one for one in all_of if not is_starter(one)] or all_of
    pids = {one.pid for one in some}
    return sorted((one for one in some if one.parent not in pids), key=lambda one: one.pid)
