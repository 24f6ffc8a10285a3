"""The files of the server's own TLS: loaded again when they change, and looked at every day."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from happy_light import certificates, threads
from happy_light.errors import OperatorError
from happy_light.stack.hypercorn_server import Serving

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0  # s between two looks at the files
_DAY: Final = 86_400.0  # s between two warnings about the same


class TlsFiles:
    """The certificate and the key that `serving` uses for new connections."""

    def __init__(self, serving: Serving, certificate: Path, key: Path) -> None:
        self._serving = serving
        self._certificate = certificate
        self._key = key
        self._loaded = self._state()

    async def watch(self) -> None:
        """Load the files whenever they change, and warn at once and every day of what is wrong with them."""
        loop = asyncio.get_running_loop()
        warn_at = loop.time()
        while True:
            if loop.time() >= warn_at:
                warn_at = loop.time() + _DAY
                await self._warn()
            await asyncio.sleep(LOOK_EVERY)
            if self._state() != self._loaded:
                self.reload()
                warn_at = loop.time()

    def reload(self) -> None:
        """Use the files as they are now for new connections; the old ones if they do not fit, which is logged."""
        self._loaded = self._state()
        try:
            self._serving.load_tls()
        except OperatorError as error:
            log.warning("the certificate in use stays: %s", error)
        else:
            log.info("the certificate %s is loaded", self._certificate)

    def _state(self) -> list[tuple[int, int, int] | None]:
        """Return what changes when a file is written or replaced; None for one that is not there."""
        found: list[tuple[int, int, int] | None] = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    async def _warn(self) -> None:
        try:
            found = await threads.run(certificates.problems, self._certificate, self._key)
        except OSError as error:
            found = [f"{error.filename} cannot be read: {error.strerror}"]
        for text in found:
            log.warning("%s", text)
