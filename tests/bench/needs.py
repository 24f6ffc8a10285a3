"""What a number of accounts needs, computed from what one operation was measured to cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tests.bench.scenarios import Row

RATES = {"writes": 0.01, "deliveries": 0.02, "beats": 0.1, "reads": 0.01, "calls": 0.002, "sockets": 0.0005}
"""Operations of one account in a second of the busiest hour: `sockets` are websockets that are made."""
SOCKETS = 1.5  # open at a time, of one account
MEAN = 1 / 3  # of the busiest hour's rate, over a year
BUSY = 0.5  # share of a core that may be used
CONNECTIONS = 4  # of a process to PostgreSQL
ACCOUNTS = (10_000, 1_000_000, 100_000_000)
YEAR = 365 * 86_400


def per_account(rows: Mapping[str, Row]) -> Row:
    """Return what one account needs in a second: CPU in µs by part, and bytes."""
    need = {
        part: sum(rate * rows[name][f"{part}_us"] for name, rate in RATES.items())
        + SOCKETS * max(rows["sockets"][f"idle_{part}_us"], 0)
        for part in ("server", "postgres", "redis")
    }
    need["wal"] = RATES["writes"] * rows["writes"]["wal"]
    need["redis_bytes"] = (
        RATES["writes"] * rows["writes"]["redis_bytes"] + RATES["beats"] * rows["beats"]["redis_bytes"]
    )
    return need


def table(rows: Mapping[str, Row]) -> Iterator[str]:
    """Return the lines of a table in Markdown."""
    need = per_account(rows)
    figures: list[tuple[str, list[float], str]] = []

    def add(text: str, of_one: float, unit: str = "") -> None:
        figures.append((text, [accounts * of_one for accounts in ACCOUNTS], unit))

    add("sockets", SOCKETS)
    add("writes/s in the busiest hour", RATES["writes"])
    add("cores that processes use", need["server"] / 1e6)
    processes = [max(2, math.ceil(accounts * need["server"] / 1e6 / BUSY)) for accounts in ACCOUNTS]
    figures.append((f"processes, each using {BUSY:.0%} of a core", [float(each) for each in processes], ""))
    memory = [
        (count * rows["sockets"]["process_mb"] / 1e3) + accounts * SOCKETS * rows["sockets"]["socket_kb"] / 1e6
        for count, accounts in zip(processes, ACCOUNTS, strict=True)
    ]
    figures.append(("memory of the processes", memory, "GB"))
    add("cores that PostgreSQL uses", need["postgres"] / 1e6)
    figures.append(("connections to PostgreSQL", [float(CONNECTIONS * each) for each in processes], ""))
    add("write-ahead log", need["wal"] / 1e6, "MB/s")
    add("messages kept, per year", MEAN * RATES["writes"] * YEAR * rows["stored"]["message"] / 1e9, "GB")
    add("outbox", 600 * RATES["writes"] * rows["stored"]["update"] / 1e9, "GB")
    add("cores that Redis uses", need["redis"] / 1e6)
    add("in and out of Redis", need["redis_bytes"] / 1e6, "MB/s")
    add("memory of Redis", SOCKETS * rows["sockets"]["redis_kb"] / 1e6, "GB")
    announcements = [each * each / 3 for each in processes]
    figures.append(("signs of life that Redis hands out in a second (processes² / 3)", announcements, ""))
    yield "| | " + " | ".join(f"{accounts:,} accounts" for accounts in ACCOUNTS) + " |"
    yield "|---|" + "---|" * len(ACCOUNTS)
    for text, values, unit in figures:
        yield (
            f"| {text} | "
            + " | ".join(
                f"{value:,.{0 if value >= 10 or value == int(value) else 2}f} {unit}".strip() for value in values
            )
            + " |"
        )
