"""``tpw-exporter probe``: reads this machine once, and lists what is missing and how to fix it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from tpw import logs
from tpw.cli import Setting
from tpw.cli.configuration import configuration, print_problems
from tpw.cli.holders import Holder, holders
from tpw.cli.surroundings import print_surroundings, surroundings
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.daemon.daemon import Daemon
from tpw.daemon.persistence import CurrencyError
from tpw.exposition.comparing import published_words
from tpw.exposition.status import status
from tpw.model import Attribution, HostMethod
from tpw.snapshot import Snapshot

_HOST = {
    HostMethod.NODE: "node meter minus GPUs; it includes CPU and memory",
    HostMethod.COMPONENTS: "CPU and memory meters",
    HostMethod.IN_GPUS: "the GPU meters include the CPU; nothing is added",
    HostMethod.NONE: "the host is not counted in facility energy",
}


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0; 1 if neither a GPU nor a server was found; 2 for a configuration error."""
    try:
        config = configuration(setting)
    except ConfigError as error:
        print_problems(error)
        return 2
    # Sources that are down are listed in the output.
    logs.configure("error", config.log.format)
    try:
        daemon = Daemon(config)
    except (CurrencyError, ValueError) as error:
        print(f"{setting.config_file or '<no file>'}: {error}", file=sys.stderr)
        return 2
    daemon.poll_all()
    time.sleep(min(1.0, config.polling.interval))
    daemon.tick()
    found = findings(daemon.snapshot, daemon.holders(), config)
    daemon.stop()
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return 0 if found["gpus"] or found["servers"] else 1


def findings(snapshot: Snapshot, held: Mapping[str, Collection[int] | None], config: Config) -> dict[str, Any]:
    """A snapshot as the JSON of ``probe``. ``held`` has the process ids by GPU, None where the driver does not report
    them."""
    books = snapshot.books
    owners: dict[str, list[str]] = {}
    for name, server in books.servers.items():
        for uuid in server.gpus:
            owners.setdefault(uuid, []).append(name)
    read = snapshot.servers_read
    shown = {server["name"]: server["models"] for server in status(snapshot)["servers"]}
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
                "counters_elsewhere": not server.up and server.name not in read,
                "engine": server.engine,
                "models": list(server.models),
                "cadence": str(server.cadence),
                "gpus": sorted(books.gpus[uuid].gpu.index for uuid in server.gpus if uuid in books.gpus),
                "attribution": str(server.attribution),
                "published": {
                    model["model"]: {
                        "nearest": model["published"],
                        "summary": published_words(model),
                        "highest_plausible_tokens_per_watt": model["highest_plausible_tokens_per_watt"],
                    }
                    for model in shown.get(server.name, ())
                },
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
    """The processes; None where the driver does not report them."""
    return None if pids is None else [asdict(holder) for holder in holders(pids)]


def _print(found: dict[str, Any]) -> None:
    print("GPUs" if found["gpus"] else "GPUs: none found")
    for gpu in found["gpus"]:
        watts = _watts(gpu["power_watts"])
        owner = gpu["owner"] or "none"
        print(
            f"  {gpu['index']}  {gpu['name']}  {gpu['uuid']}  {'up' if gpu['up'] else 'DOWN'}  {watts}  owner: {owner}"
        )
        print(f"     energy method {gpu['energy_method']}, power scope {gpu['power_scope']}")
        if gpu["why_not_better"]:
            print(f"     {gpu['why_not_better']}")
        for remark in gpu["remarks"]:
            print(f"     {remark}")
        for holder in gpu["held_by"] or ():
            print(f"     held by {Holder(**holder)}")
        if gpu["calibration"]:
            print(
                f"     calibration: {gpu['calibration']['gain']:g} * measured {gpu['calibration']['offset_watts']:+g} W"
            )
        if len(gpu["shares"]) > 1 or gpu["instances"]:
            shares = ", ".join(f"{name} {100 * (share or 0):.0f} %" for name, share in gpu["shares"].items()) or "none"
            print(f"     shares now: {shares} (method {gpu['split_method'] or 'none'})")
        for instance in gpu["instances"]:
            print(
                f"     instance {instance['uuid']}  {instance['profile']}"
                f"  about {100 * instance['estimated_share']:.0f} % of the GPU ({instance['method']})"
            )
    for host in found["host"]:
        print(f"host {host['component']}  {_watts(host['power_watts'])}")
    print(f"host share {found['host_share']['method']}: {found['host_share']['meaning']}")
    print("servers" if found["servers"] else "servers: none found")
    for server in found["servers"]:
        gpus = ", ".join(map(str, server["gpus"])) or "unknown"
        state = "up" if server["up"] else "no metrics page here" if server["counters_elsewhere"] else "DOWN"
        models = ", ".join(server["models"]) or "unknown model"
        found_by = "" if server["attribution"] == Attribution.NONE else f" ({server['attribution']})"
        print(f"  {server['name']}  {server['engine'] or '?'}  {models}  {state}  GPUs: {gpus}{found_by}")
        for compared in server["published"].values():
            if compared["summary"]:
                print(f"     output tokens per joule, {compared['summary']}")
    print_surroundings(found)
    for missing in found["missing"]:
        if missing["source"] in {"tariff", "carbon", "pue"} and not missing["hint"]:
            continue  # print_surroundings has printed it
        print(f"missing: {missing['source']}: {missing['detail']}")
        if missing["hint"]:
            print(f"         {missing['hint']}")
    for note in found["notes"]:
        print(f"note: {note}")


def _watts(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} W"
