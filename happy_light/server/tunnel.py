"""A tunnel: a program that gives this server an HTTPS address while both run (Tailscale, cloudflared).

The program is started once the server listens, prints its address, and is ended with the server. Tailscale's address
works for the devices of the own tailnet; that of cloudflared works for everybody and is a new one every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
from collections import deque
from dataclasses import dataclass
from typing import Final

from happy_light.errors import OperatorError

log = logging.getLogger(__name__)

START_MAX: Final = 60.0  # s until the program has printed its address
STOP_MAX: Final = 1.0  # s until a program that does not end is killed
_MORE_MAX: Final = 2.0  # s until a program that refuses has printed the whole reason
_LINE_MAX: Final = 64 * 1024  # bytes
_KEPT: Final = 6  # lines of its output that an error shows


@dataclass(frozen=True)
class _Program:
    """How a program is run; `address` finds the URL in its output, `refusal` what it prints when it says no.

    {target} in the arguments is the server's own URL, {insecure} the same for one whose certificate is not checked.
    """

    arguments: tuple[str, ...]
    address: re.Pattern[str]
    refusal: re.Pattern[str]
    install: str


_PROGRAMS: Final = {
    "tailscale": _Program(
        ("serve", "{insecure}"),
        re.compile(r"https://[a-z0-9-]+(?:\.[a-z0-9-]+)*\.ts\.net(?::\d+)?"),
        re.compile(r"not enabled|not logged in|Logged out|access denied|failed to|error", re.IGNORECASE),
        "https://tailscale.com/download",
    ),
    "cloudflared": _Program(
        ("tunnel", "--no-autoupdate", "--no-tls-verify", "--url", "{target}"),
        re.compile(r"https://(?!api\.)[a-z0-9-]+\.trycloudflare\.com"),
        re.compile(r"failed to request quick Tunnel|failed to unmarshal quick Tunnel", re.IGNORECASE),
        "https://developers.cloudflare.com/cloudflare-one/connections/connect-networks/downloads/",
    ),
}


class Tunnel:
    """A program that runs; `url` is the address that it got, without trailing slash."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.url = ""
        self._name = name
        self._process = process
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._reading: asyncio.Task[None] | None = None
        self._stopping = False

    @classmethod
    async def open(cls, name: str, target: str) -> Tunnel:
        """Start the program for the server at the URL `target` and wait for its address. Raises OperatorError."""
        program = _PROGRAMS[name]
        path = shutil.which(name)
        if path is None:
            raise OperatorError(f"--tunnel {name} needs the program {name}, which is not installed: {program.install}")
        insecure = target.replace("https://", "https+insecure://")
        arguments = (argument.format(target=target, insecure=insecure) for argument in program.arguments)
        try:
            # A session of its own, so that Ctrl-C on the terminal leaves its end to the server.
            process = await asyncio.create_subprocess_exec(
                path, *arguments, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
                limit=_LINE_MAX,
            )  # fmt: skip
        except OSError as error:
            raise OperatorError(f"--tunnel {name}: {path} cannot be run: {error.strerror}.") from error
        tunnel = cls(name, process)
        try:
            async with asyncio.timeout(START_MAX):
                tunnel.url = await tunnel._address(program)
        except TimeoutError:
            await tunnel.close()
            raise OperatorError(
                f"--tunnel {name}: it did not get an address within {START_MAX:.0f} s{tunnel._last_words()}"
            ) from None
        except BaseException:
            await tunnel.close()
            raise
        tunnel._reading = asyncio.create_task(tunnel._read_rest())
        return tunnel

    async def _address(self, program: _Program) -> str:
        """Return the address that the program prints. Raises OperatorError if it refuses or ends."""
        while (line := await self._next_line()) is not None:
            found = program.address.search(line)
            if found:
                return found[0]
            if program.refusal.search(line):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_MORE_MAX):
                        while await self._next_line() is not None:
                            pass
                break
        raise OperatorError(f"--tunnel {self._name}: it refused{self._last_words()}")

    async def _next_line(self) -> str | None:
        """Return the next line of the output, None at its end."""
        assert self._process.stdout is not None
        try:
            raw = await self._process.stdout.readline()
        except ValueError:  # a line that is longer than _LINE_MAX, which is dropped
            return ""
        if not raw:
            return None
        line = raw.decode("utf-8", "replace").strip()
        if line:
            self._lines.append(line)
            log.debug("%s: %s", self._name, line)
        return line

    def _last_words(self) -> str:
        """Return what the program said last, for the end of a sentence."""
        said = " ".join(self._lines)
        return f". It said: {said}" if said else ", and said nothing."

    async def _read_rest(self) -> None:
        """Read what it prints, so that it is never held up, and log when it ends by itself."""
        while await self._next_line() is not None:
            pass
        status = await self._process.wait()
        if not self._stopping:
            log.error(
                "%s ended with status %d: nobody reaches this server at %s any more; start the server again%s",
                self._name, status, self.url, self._last_words(),
            )  # fmt: skip

    def kill(self) -> None:
        """End the program at once, for a server that does not wait either."""
        self._signal(signal.SIGKILL)

    def _signal(self, signum: signal.Signals) -> None:
        """Send a signal to the program and to what it has started, unless it has ended.

        Its pipe closes only when none of them has it open any more. The methods of the process object would reap a
        program that has ended, and asyncio would lose its exit status.
        """
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signum)

    async def close(self) -> None:
        """End the program."""
        self._stopping = True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_MAX):
                await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
