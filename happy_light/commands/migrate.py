"""`migrate`: bring the database up to date and stop; launchers call it before `serve`."""

from __future__ import annotations

import argparse

from happy_light.commands.command import Command
from happy_light.config import Settings


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Migrate after a copy. Raises OperatorError."""
    from happy_light import data_dir, store

    data_dir.create_private_dir(settings.data_dir)
    with data_dir.lock_data_dir(settings):
        data_dir.refuse_unfinished(settings)
        store.migrate(settings)
    print(f"{settings.postgres or settings.database} is up to date (schema {store.SCHEMA_VERSION}).")


command = Command(name="migrate", help="bring the database to this version's schema, and stop", run=run)
