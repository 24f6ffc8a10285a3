"""Copy the other server's files: public ones, and attachments of sessions that were taken over."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from happy_light.blobs import keys
from happy_light.blobs.folder import regular_files
from happy_light.errors import OperatorError
from happy_light.importing.report import ProgressCallback, Report

_OWNERS = {"public": "accounts", "sessions": "sessions"}


def stage(source: Path, staging: Path, target: sqlite3.Connection, report: Report, progress: ProgressCallback) -> None:
    """Copy the files below `source` whose owner is in the database `target` to `staging`. Raises OperatorError."""
    counts = {"public": 0, "attachments": 0, "bytes": 0, "left": 0}
    left: list[str] = []
    for file, _ in regular_files(source):
        key = file.relative_to(source).as_posix()
        if not keys.is_key(key) or not _has_owner(key, target):
            left.append(key)
            continue
        copy = staging / keys.disk_path(key)
        try:
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            copy.chmod(0o600)
        except OSError as error:
            raise OperatorError(f"The file {file} cannot be copied: {error.strerror}.") from error
        counts["bytes"] += copy.stat().st_size
        counts["public" if key.startswith("public/") else "attachments"] += 1
        progress("files", counts["public"] + counts["attachments"], 0)
    report.files = counts | {"left": len(left)}
    if left:
        report.notes.append(
            f"{len(left)} files belong to nobody who was taken over, or are of an unknown kind, and were left: "
            f"{', '.join(left[:3])}{', …' if len(left) > 3 else ''}."
        )


def _has_owner(key: str, target: sqlite3.Connection) -> bool:
    top, *rest = key.split("/")
    owner = rest[1] if top == "public" else rest[0]
    table = _OWNERS.get(top)
    return table is not None and bool(target.execute(f"SELECT 1 FROM {table} WHERE id = ?", (owner,)).fetchone())
