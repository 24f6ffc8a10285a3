"""Measure this server on a PostgreSQL of its own beside itself on SQLite, in turn: `make bench-postgres`.

    python -m tests.bench.postgres [--seconds 3] [--rounds 3] [--only NAME …]

Load, servers and PostgreSQL share one computer. Targets are for one on which the calibration takes CALIBRATION ms;
rates and times are compared with what they mean here.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import os
import shlex
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.bench.__main__ import calibration
from tests.bench.scenarios import Row, Scenario, fanout, post, read, sockmsg, steady
from tests.bench.servers import OURS, Server
from tests.services import Postgres

CALIBRATION = 66.0  # ms

SCENARIOS = [
    Scenario("post1 c1", partial(post, 1, 1)),
    Scenario("post1 c32", partial(post, 32, 1, accounts=8)),
    Scenario("post100 c4", partial(post, 4, 100, accounts=4)),
    Scenario("sockmsg w8", sockmsg),
    Scenario("rate200", partial(steady, 200)),
    Scenario("fanout 50", fanout),
    Scenario("reads sessions", partial(read, "/v1/sessions")),
    Scenario("reads v3page", partial(read, "/v3/sessions/{session}/messages?after_seq=400&limit=100")),
    Scenario("reads changedSince", partial(read, "/v2/sessions?changedSince={since}")),
]


class Target(NamedTuple):
    """What a figure has to reach on PostgreSQL, at the calibration CALIBRATION."""

    figure: str
    least: float | None = None
    most: float | None = None


TARGETS = {
    "post1 c32": [Target("per_s", least=2_000)],
    "post100 c4": [Target("per_s", least=10_000)],
    "sockmsg w8": [Target("per_s", least=3_000)],
    "rate200": [Target("p99_ms", most=10), Target("disorder", most=0)],
    "fanout 50": [Target("per_s", least=60_000)],
    "reads sessions": [Target("per_s", least=1_200)],
    "reads changedSince": [Target("per_s", least=3_000)],
    "idle": [Target("mib", most=60)],
}


async def once(number: int, seconds: float, only: list[str]) -> dict[str, dict[str, Row]]:
    """Run every scenario on both servers. Return the figures by scenario and server."""
    rows: dict[str, dict[str, Row]] = {}
    with tempfile.TemporaryDirectory() as folder, Postgres() as postgres:
        environment = {"DATABASE_URL": postgres.create(), "HANDY_MASTER_SECRET": "bench"}
        on_postgres = shlex.join(["env", *(f"{name}={value}" for name, value in environment.items())])
        servers: list[Server] = []
        try:
            for name, command in (("sqlite", OURS), ("postgres", f"{on_postgres} {OURS}")):
                path = Path(folder, name)
                path.mkdir()
                servers.append(Server(name, command, path))
            await asyncio.sleep(2)
            if not only or "idle" in only:
                rows["idle"] = {server.name: {"mib": server.memory()} for server in servers}
            for scenario in SCENARIOS:
                if not only or any(scenario.name.startswith(name) for name in only):
                    in_turn = servers if number % 2 else reversed(servers)
                    rows[scenario.name] = {server.name: await scenario.run(server, seconds) for server in in_turn}
        finally:
            for server in servers:
                server.stop()
    return rows


def judged(target: Target, value: float, slower: float) -> str:
    """Return the target as it is on a computer that is so much slower, and whether the value reaches it."""
    wanted, reaches = (target.least, operator.ge) if target.least is not None else (target.most, operator.le)
    assert wanted is not None
    if target.figure == "per_s":
        wanted /= slower
    elif target.figure.endswith("_ms"):
        wanted *= slower
    return f"{'≥' if target.least is not None else '≤'} {wanted:,.0f}: {'yes' if reaches(value, wanted) else 'NO'}"


def main() -> None:
    """Parse the arguments, run, and print a table of medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.postgres")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="scenarios whose names begin so, or `idle`")
    arguments = parser.parse_args()
    calibrations = [calibration()]
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(asyncio.run(once(number, arguments.seconds, arguments.only)))
        calibrations.append(calibration())
    here = statistics.median(calibrations)
    print(f"calibration {here:.0f} ms, {os.cpu_count()} cores, Python {sys.version.split()[0]}, {len(rounds)} rounds")
    print(f"targets are those at {CALIBRATION:.0f} ms, as they are at {here:.0f}\n")
    print("| scenario | figure | SQLite | PostgreSQL | ratio | target |\n|---|---|---|---|---|---|")
    for scenario in rounds[0]:
        targets = {target.figure: target for target in TARGETS.get(scenario, [])}
        for figure in rounds[0][scenario]["sqlite"]:
            sqlite, postgres = (
                statistics.median(one[scenario][name][figure] for one in rounds) for name in ("sqlite", "postgres")
            )
            ratio = f"{postgres / sqlite:.2f}" if sqlite else ""
            target = judged(targets[figure], postgres, here / CALIBRATION) if figure in targets else ""
            digits = 0 if max(sqlite, postgres) >= 100 else 1
            cells = f"{sqlite:,.{digits}f} | {postgres:,.{digits}f} | {ratio} | {target}"
            print(f"| {scenario} | {figure} | {cells} |")


if __name__ == "__main__":
    main()
