"""Which master secret the other server had, and how it becomes this one's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from happy_light.errors import OperatorError

_NAMES: Final = ("handy-master-secret.txt", "master-secret")


def find(given: str | None, file: Path | None, environment: str | None, beside: Iterable[Path]) -> tuple[str, str]:
    """-> (secret, where it is from). Raises StartError if there is none.

    As the other servers looked for it: what is given, the environment, then a file beside the database.
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
        for name in _NAMES:
            if (folder / name).is_file():
                return _read(folder / name), str(folder / name)
    raise OperatorError(
        "The other server's master secret is needed, since without it everyone would be signed out: give it with "
        "--secret-file (a handy-master-secret.txt, or ~/.happy/server-data/master-secret) or in HANDY_MASTER_SECRET."
    )


def _read(file: Path) -> str:
    try:
        text = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"The master secret file {file} cannot be read: {error}.") from None
    if not text:
        raise OperatorError(f"The master secret file {file} is empty.")
    return text
