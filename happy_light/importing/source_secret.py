"""Find the master secret of the other server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from happy_light.auth import master_secret
from happy_light.errors import OperatorError

_FILE_NAMES: Final = ("handy-master-secret.txt", "master-secret")


def find(given: str | None, file: Path | None, environment: str | None, beside: Iterable[Path]) -> tuple[str, str]:
    """Return the secret and where it was found: given, in the environment, or in a file beside the database.

    The other servers look for it in this order, too. Raises OperatorError if there is none.
    """
    if given is not None:
        if not given.strip():
            raise OperatorError("--secret is empty; give the other server's master secret.")
        return given.strip(), "--secret"
    if file is not None:
        return _read(file), str(file)
    if environment:
        return environment, "HANDY_MASTER_SECRET"
    for folder in beside:
        for name in _FILE_NAMES:
            if (folder / name).is_file():
                return _read(folder / name), str(folder / name)
    raise OperatorError(
        "The other server's master secret is needed, since without it everyone would be signed out: give it with "
        "--secret-file (a handy-master-secret.txt, or ~/.happy/server-data/master-secret) or in HANDY_MASTER_SECRET."
    )


def _read(file: Path) -> str:
    text = master_secret.read(file)
    if not text:
        raise OperatorError(f"The master secret file {file} is empty.")
    return text
