"""``tpw-exporter probe``: one look at this machine, and what is missing to see more."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from tpw import logs
from tpw.app import CurrencyError, Daemon
from tpw.cli import Setting
from tpw.cli.configuration import configuration, print_problems
from tpw.cli.holders import Holder, holders
from tpw.cli.surroundings import print_surroundings, surroundings
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.model import HostMethod
from tpw.snapshot import Snapshot

_HOST = {
    HostMethod.NODE: "the node's meter less its GPUs; CPU and memory are in it and are not added",
    HostMethod.COMPONENTS: "CPU and memory as their meters show them",
    HostMethod.IN_GPUS: "the GPUs' own meters hold the CPU, so nothing is added",
    HostMethod.NONE: "nothing of the host is in the facility's energy",
}


def options(parser: argparse.ArgumentParser) -> None:
    """What else it takes."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0 when something could be read at all, 1 when neither a GPU nor a server is here."""
    try:
        config = configuration(setting)
    except ConfigError as error:
        print_problems(error)
        return 2
    # What is down is told below, in its place.
    logs.configure("error", config.log.format)
    try:
        daemon = Daemon(config)
    except (CurrencyError, ValueError) as error:
        print(f"{setting.config_file or '<no file>'}: {error}", file=sys.stderr)
        return 2
    daemon.look()
    time.sleep(min(1.0, config.polling.interval))
    daemon.look_again()
    seen = look(daemon.snapshot, daemon.holders(), config)
    daemon.stop()
    if arguments.json:
        print(json.dumps(seen, indent=2))
    else:
        _print(seen)
    return 0 if seen["gpus"] or seen["servers"] else 1


def look(snapshot: Snapshot, held: Mapping[str, Collection[int] | None], config: Config) -> dict[str, Any]:
    """What a snapshot tells, and who holds the GPUs, as plain values."""
    books = snapshot.books
    owners: dict[str, list[str]] = {}
    for name, server in books.servers.items():
        for uuid in server.gpus:
            owners.setdefault(uuid, []).append(name)
    read = {source.name for source in snapshot.sources}
    return {
        "gpus": [
            {
                "index": account.gpu.index,
                "uuid": account.gpu.uuid,
                "name": account.gpu.name,
                "up": account.up,
                "energy_method": str(account.method),
                "why_not_better": account.gpu.method_note,
                "power_scope": str(account.gpu.power_scope),
                "remarks": list(account.gpu.remarks),
                "power_watts": account.sample.power_watts if account.sample else None,
                "held_by": _holders(held.get(account.gpu.uuid)),
                "calibration": None
                if account.calibration is None
                else {"gain": account.calibration.gain, "offset_watts": account.calibration.offset_watts},
                "owner": ", ".join(sorted(owners.get(account.gpu.uuid, ()))) or None,
                "split_method": None
                if account.division is None or account.division.method is None
                else str(account.division.method),
                "shares": {
                    name: account.division.ratio(name) if account.division else None
                    for name in sorted(owners.get(account.gpu.uuid, ()))
                },
                "instances": [
                    {
                        "uuid": part.instance,
                        "profile": part.profile,
                        "estimated_share": part.weight,
                        "method": str(part.method),
                    }
                    for part in (account.division.parts if account.division else ())
                ],
            }
            for account in sorted(books.gpus.values(), key=lambda account: account.gpu.index)
        ],
        "host": [{"component": name, "power_watts": host.power_watts} for name, host in books.hosts.items()],
        "host_share": {"method": str(books.host_share.method), "meaning": _HOST[books.host_share.method]},
        "servers": [
            {
                "name": server.name,
                "up": server.up,
                "counters_elsewhere": not server.up and f"server:{server.name}" not in read,
                "engine": server.engine,
                "models": list(server.models),
                "cadence": str(server.cadence),
                "gpus": sorted(books.gpus[uuid].gpu.index for uuid in server.gpus if uuid in books.gpus),
                "attribution": str(server.attribution),
            }
            for server in books.servers.values()
        ],
        **surroundings(snapshot, config),
        "missing": [
            {"source": source.name, "detail": source.detail, "hint": source.hint}
            for source in snapshot.sources
            if not source.up
        ],
        "notes": list(snapshot.notes),
    }


def _holders(pids: Collection[int] | None) -> list[dict[str, Any]] | None:
    """Who they are; None where the driver does not tell."""
    return None if pids is None else [asdict(holder) for holder in holders(pids)]


def _print(seen: dict[str, Any]) -> None:
    print("GPUs" if seen["gpus"] else "GPUs: none seen")
    for gpu in seen["gpus"]:
        watts = "-" if gpu["power_watts"] is None else f"{gpu['power_watts']:.0f} W"
        owner = gpu["owner"] or "nobody"
        print(
            f"  {gpu['index']}  {gpu['name']}  {gpu['uuid']}  {'up' if gpu['up'] else 'DOWN'}  {watts}  owner: {owner}"
        )
        print(f"     energy by {gpu['energy_method']}, scope {gpu['power_scope']}")
        if gpu["why_not_better"]:
            print(f"     {gpu['why_not_better']}")
        for remark in gpu["remarks"]:
            print(f"     {remark}")
        for holder in gpu["held_by"] or ():
            print(f"     held by {Holder(**holder)}")
        if gpu["calibration"]:
            print(f"     corrected: {gpu['calibration']['gain']:g} * shown {gpu['calibration']['offset_watts']:+g} W")
        if len(gpu["shares"]) > 1 or gpu["instances"]:
            shares = (
                ", ".join(f"{name} {100 * (share or 0):.0f} %" for name, share in gpu["shares"].items()) or "nobody"
            )
            print(f"     shared now: {shares} (by {gpu['split_method'] or 'nothing'})")
        for instance in gpu["instances"]:
            print(
                f"     instance {instance['uuid']}  {instance['profile']}"
                f"  about {100 * instance['estimated_share']:.0f} % of the board ({instance['method']})"
            )
    for host in seen["host"]:
        watts = "-" if host["power_watts"] is None else f"{host['power_watts']:.0f} W"
        print(f"host {host['component']}  {watts}")
    print(f"host share by {seen['host_share']['method']}: {seen['host_share']['meaning']}")
    print("servers" if seen["servers"] else "servers: none seen")
    for server in seen["servers"]:
        gpus = ", ".join(map(str, server["gpus"])) or "none known"
        state = "up" if server["up"] else "counters elsewhere" if server["counters_elsewhere"] else "DOWN"
        models = ", ".join(server["models"]) or "unknown model"
        print(
            f"  {server['name']}  {server['engine'] or '?'}  {models}  {state}  GPUs: {gpus} ({server['attribution']})"
        )
    print_surroundings(seen)
    for missing in seen["missing"]:
        if missing["source"] in {"tariff", "carbon", "pue"} and not missing["hint"]:
            continue  # told above
        print(f"missing: {missing['source']}: {missing['detail']}")
        if missing["hint"]:
            print(f"         {missing['hint']}")
    for note in seen["notes"]:
        print(f"note: {note}")
