"""`migrate`: only brings the database up to date; launchers call it before `serve`."""

from __future__ import annotations

import argparse

from happy_light.config import Settings

NAME = "migrate"
HELP = "bring the database to this version's schema, and stop"


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command: none of its own."""


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Migrates after a copy. Raises StartError."""
    from happy_light import data_dir, store

    data_dir.create_private_dir(settings.data_dir)
    with data_dir.lock_data_dir(settings):
        store.prepare(settings.database)
    print(f"{settings.database} is up to date (schema {store.SCHEMA_VERSION}).")
