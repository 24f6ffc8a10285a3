"""Copy the other server's files: public ones, and attachments of sessions that were taken over."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from happy_light.blobs import FolderBlobs, keys
from happy_light.blobs.folder import regular_files
from happy_light.errors import OperatorError
from happy_light.importing.report import ProgressCallback, Report
from happy_light.store import ReadTransaction

_OWNERS = {"public": "accounts", "sessions": "sessions", "projects": "projects"}


def files_of_others(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of another server's folder with what their keys would be; not all of them are keys."""
    for file, _ in regular_files(folder):
        yield file.relative_to(folder).as_posix(), file


def own_files(data_dir: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a data folder of ours with their keys."""
    blobs = FolderBlobs(data_dir / "files", data_dir / "attachments")
    for blob in blobs.walk():
        yield blob.key, blobs.path_of(blob.key)


def stage(
    files: Iterator[tuple[str, Path]],
    staging: Path,
    target: ReadTransaction,
    report: Report,
    progress: ProgressCallback,
) -> None:
    """Copy the files whose owner is in the database `target` to `staging`. Raises OperatorError."""
    counts = {"public": 0, "attachments": 0, "bytes": 0, "left": 0}
    left: list[str] = []
    for key, file in files:
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


def _has_owner(key: str, target: ReadTransaction) -> bool:
    top, *rest = key.split("/")
    owner = rest[1] if top == "public" else rest[0]
    table = _OWNERS.get(top)
    return table is not None and target.fetch_one(f"SELECT 1 FROM {table} WHERE id = ?", (owner,)) is not None
