"""The folder in which an import builds what it then moves into place."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from happy_light import data_dir, pending_moves
from happy_light.config import Settings


@contextlib.contextmanager
def staging_of(settings: Settings, dry_run: bool) -> Iterator[Path]:
    """Yield a folder to build in; the data folder is locked meanwhile, except for a dry run. Raises OperatorError."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="happy-import-") as temporary:
            yield Path(temporary)
        return
    data_dir.create_private_dir(settings.data_dir)
    # On the disk of the database, which is the largest file.
    place = settings.data_dir if settings.postgres else settings.database.parent
    folder = place / data_dir.IMPORTING
    with data_dir.lock_data_dir(settings), pending_moves.staging_folder(settings.data_dir, folder) as staging:
        yield staging
