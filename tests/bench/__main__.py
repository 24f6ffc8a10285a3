"""Measure this server beside the bare stack, and beside another server, in turn.

    python -m tests.bench [--seconds 2] [--rounds 3] [--only NAME …] [--vs COMMAND] [--json FILE]
    python -m tests.bench --growth [--messages N] [--sessions N] [--accounts N]   (growth.py)
    python -m tests.bench --slow [--share 0.33]                                    (slow.py)

The figures of one run compare with each other; those of two runs only as ratios, machines are noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import growth, slow
from tests.bench.scenarios import SCENARIOS, Row
from tests.bench.servers import BARE, OURS, Server

Round = dict[str, dict[str, Row]]
"""By scenario and server."""


def calibration() -> float:
    """Return the ms of SHA-256 over 128 MiB: how fast this machine is just now."""
    data = b"\0" * (1 << 20)
    began = time.process_time()
    digest = hashlib.sha256()
    for _ in range(128):
        digest.update(data)
    return (time.process_time() - began) * 1000


async def once(number: int, seconds: float, only: list[str], other: str | None) -> Round:
    """Run every scenario once, on each server that can do it, one after the other."""
    rows: Round = {}
    commands = {"ours": OURS, "bare": BARE} | ({} if other is None else {"other": other})
    with tempfile.TemporaryDirectory() as folder:
        servers: list[Server] = []
        try:
            for name, command in commands.items():
                path = Path(folder, name)
                path.mkdir()
                servers.append(Server(name, command, path))
            await asyncio.sleep(1)
            if not only or "start" in only:
                rows["start"] = {
                    server.name: {
                        "start_ms": server.start_seconds * 1000,
                        "start_cpu_ms": server.start_cpu * 1000,
                        "mib": server.memory(),
                    }
                    for server in servers
                }
            for scenario in SCENARIOS:
                if only and not any(scenario.name.startswith(name) for name in only):
                    continue
                rows[scenario.name] = {}
                for server in servers if number % 2 else reversed(servers):
                    if scenario.bare or not server.bare:
                        rows[scenario.name][server.name] = await scenario.run(server, seconds)
            return rows
        finally:
            for server in servers:
                server.stop()


def print_table(rounds: list[Round]) -> None:
    """Print the medians of all rounds, and how ours compares with the others, by the median of each round's ratio."""
    for scenario, servers in rounds[0].items():
        for name, row in servers.items():
            cells = []
            for key in row:
                values = [each[scenario][name][key] for each in rounds if key in each[scenario][name]]
                value = statistics.median(values)
                cells.append(f"{key} {value:,.{0 if value >= 100 else 2}f}")
                ratios = [
                    each[scenario]["ours"][key] / each[scenario][name][key]
                    for each in rounds
                    if name != "ours" and each[scenario][name].get(key) and key in each[scenario]["ours"]
                ]
                if ratios:
                    cells[-1] += f" (x {statistics.median(ratios):.2f})"
            print(f"{scenario:20} {name:6} {'  '.join(cells)}")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="scenarios whose names begin so, or `start`")
    parser.add_argument("--vs", metavar="COMMAND", help="of another server, with {port} and {folder} in it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--growth", action="store_true", help="many messages beside few")
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--slow", action="store_true", help="a part of one core, at the rates of a family")
    parser.add_argument("--share", type=float, default=0.33, help="of one core")
    arguments = parser.parse_args()
    if arguments.growth:
        growth.run(arguments.messages, arguments.sessions, arguments.accounts, arguments.seconds)
        return
    if arguments.slow:
        sys.exit(0 if slow.run(max(10, arguments.seconds), arguments.share) else 1)
    rounds = [
        asyncio.run(once(number, arguments.seconds, arguments.only, arguments.vs)) for number in range(arguments.rounds)
    ]
    print(f"calibration {calibration():.0f} ms, {os.cpu_count()} cores, medians of {len(rounds)} rounds")
    print("(x …): ours divided by that server, in the same round\n")
    print_table(rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
