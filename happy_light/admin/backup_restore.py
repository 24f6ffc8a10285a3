"""Restore: put an archive of backup_archive.py into the data folder."""

from __future__ import annotations

import sqlite3
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from happy_light import data_dir, pending_moves, store
from happy_light.admin.backup_archive import (
    CONFIG,
    DATABASE,
    FORMAT,
    SECRET,
    Manifest,
    check_database,
    is_secret_of,
    read_archive,
)
from happy_light.admin.progress import ProgressCallback
from happy_light.admin.stored_files import files_in
from happy_light.auth import master_secret
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.store import ReadTransaction


@dataclass(frozen=True)
class Restored:
    """What was restored. `before`: the folder into which the previous content was moved.

    `config`: where the archive's configuration file is if it was not put into force.
    """

    manifest: Manifest
    before: Path | None
    config: Path | None


def restore(settings: Settings, archive: Path, force: bool, progress: ProgressCallback) -> Restored:
    """Put an archive into the data folder, after checking all of it. Raises OperatorError."""
    if not archive.is_file():
        raise OperatorError(f"There is no archive {archive}.")
    data_dir.create_private_dir(settings.data_dir)
    with data_dir.lock_data_dir(settings):
        there = [path for path in _database_and_files(settings) if path.is_file() or any(files_in(path))]
        if there and not force:
            raise OperatorError(
                f"{settings.data_dir} is not empty ({there[0].name}). With --force its content is moved to a folder "
                "beside it and replaced; or choose another folder with --data-dir."
            )
        try:
            with pending_moves.staging_folder(settings.data_dir, settings.data_dir / data_dir.RESTORING) as staging:
                manifest = read_archive(archive, progress, staging)
                _check_restored(settings, manifest, staging)
                config = _place_of_config(settings, staging / CONFIG)
                aside, moves = _plan(settings, there, staging, config)
                pending_moves.run(settings.data_dir, "a restore", moves, staging)
        except OSError as error:
            raise OperatorError(f"{settings.data_dir} cannot be written: {error.strerror or error}.") from error
    return Restored(manifest, aside, config if config is not None and config.name != CONFIG else None)


def _database_and_files(settings: Settings) -> list[Path]:
    database = settings.database
    beside = [database.with_name(database.name + end) for end in ("", "-wal", "-shm")]
    return [*(beside if settings.postgres is None else ()), settings.files, settings.attachments]


def _check_restored(settings: Settings, manifest: Manifest, staging: Path) -> None:
    if manifest.format > FORMAT or manifest.schema > store.SCHEMA_VERSION:
        raise OperatorError(
            f"The archive was made by happy-server-light {manifest.version} (schema {manifest.schema}, this one knows "
            f"{store.SCHEMA_VERSION}); install that version or a newer one."
        )
    database = staging / DATABASE
    if settings.postgres is not None:
        if database.is_file():
            raise OperatorError(
                "The archive holds a SQLite database, but DATABASE_URL names PostgreSQL; restore it into a folder "
                "without DATABASE_URL."
            )
        with store.open_for_reading(settings) as tx:
            _check_secrets(settings, manifest, staging, tx)
        return
    if not database.is_file():
        raise OperatorError(
            "The archive has no database, since its server kept it in PostgreSQL; restore that with pg_restore, and "
            "run this command with its DATABASE_URL."
        )
    connection = sqlite3.connect(database)
    try:
        check_database(connection, database)
    except sqlite3.Error as error:
        raise OperatorError(f"The archive's database cannot be used: {error}.") from error
    finally:
        connection.close()
    store.create_or_migrate(database)
    with store.open_readonly(database) as tx:
        _check_secrets(settings, manifest, staging, tx)


def _check_secrets(settings: Settings, manifest: Manifest, staging: Path, tx: ReadTransaction) -> None:
    if settings.master_secret and not is_secret_of(settings.master_secret, tx):
        raise OperatorError(
            "HANDY_MASTER_SECRET is not the secret of the server that was backed up; everyone would be signed out. "
            + ("Unset it: the archive has the right one." if manifest.secret else "Set it to that server's.")
        )
    own = settings.secret_file
    own_counts = not manifest.secret and not settings.master_secret and own.is_file()
    if own_counts and not is_secret_of(master_secret.read(own), tx):
        raise OperatorError(f"{own} is not the secret of the server that was backed up; put the right one there.")
    if manifest.secret and not is_secret_of((staging / SECRET).read_text("utf-8"), tx):
        raise OperatorError("The secret in the archive is not that of its database.")


def _plan(
    settings: Settings, there: list[Path], staging: Path, config: Path | None
) -> tuple[Path | None, list[tuple[Path, Path]]]:
    """Return the folder for the previous content, and what to move from where to where: first that, then the new."""
    places = {
        "files": settings.files, "attachments": settings.attachments, SECRET: settings.secret_file,
        DATABASE: settings.database,
    }  # fmt: skip
    moves_in = [(staging / name, place) for name, place in places.items() if (staging / name).exists()]
    if config is not None:
        moves_in.insert(0, (staging / CONFIG, config))
    if (staging / SECRET).exists() and settings.secret_file.exists():
        there = [*there, settings.secret_file]
    if not there:
        return None, moves_in
    aside = pending_moves.unused(settings.data_dir / time.strftime("before-restore-%Y%m%d-%H%M%S"))
    return aside, [*((path, aside / path.name) for path in there), *moves_in]


def _place_of_config(settings: Settings, config: Path) -> Path | None:
    """Return where the archive's configuration file goes, None if there is none.

    It is not put into force if the data folder has one, or if it names other places for the data.
    """
    if not config.is_file():
        return None
    place = settings.data_dir / CONFIG
    places = {"files_dir", "database_url"} & tomllib.loads(config.read_text("utf-8")).keys()
    return place.with_name(f"{CONFIG}.restored") if place.exists() or places else place
