"""`health`: ask a running server whether it is healthy; for containers and scripts, without curl."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError

_TIMEOUT = 5  # s


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="the server to ask; by default the one that these settings start")
    parser.add_argument("--quiet", action="store_true", help="print nothing; only the exit code counts")


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print the answer; end the process with 1 if the server is not healthy. Raises OperatorError."""
    from happy_light.config import setting_types
    from happy_light.http import addresses

    if arguments.url is not None:
        try:
            url, known = setting_types.url(arguments.url), False
        except ValueError as error:
            raise OperatorError(f"--url is {arguments.url!r}, but should be {error}.") from None
    elif settings.port == 0:
        raise OperatorError("PORT is 0, so the port is not known; name the server with --url.")
    else:
        url, known = addresses.url(settings, addresses.reachable(settings.host)[0], settings.port), True
    problem = check(url, trust=known)
    if not arguments.quiet:
        text = f"{url} is not healthy: {problem}" if problem else f"{url} is healthy"
        print(text, file=sys.stderr if problem else sys.stdout)
    if problem:
        sys.exit(1)


def check(url: str, trust: bool) -> str:
    """Request GET /health and return what is wrong, "" if nothing.

    `trust`: accept any certificate and use no proxy, for this computer's own server.
    """
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPSHandler, ProxyHandler, build_opener

    context = ssl.create_default_context()
    if trust:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = build_opener(*([ProxyHandler({})] if trust else []), HTTPSHandler(context=context))
    try:
        with opener.open(f"{url}/health", timeout=_TIMEOUT) as response:
            answer = json.loads(response.read(10_000))
    except HTTPError as error:
        return _reason(error) or f"it answers {error.code}"
    except OSError as error:  # URLError and timeouts too
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason)
    except (HTTPException, ValueError):
        return "it is another program"
    if not isinstance(answer, dict) or answer.get("status") != "ok":
        return "it is another program"
    return ""


def _reason(answer: Any) -> str:
    """Return the reason in an answer of a Happy server that is not healthy, "" in any other."""
    try:
        found = json.loads(answer.read(10_000))
    except (OSError, ValueError):
        return ""
    text = found.get("error") if isinstance(found, dict) else None
    return f"{text[:500]}" if isinstance(text, str) else ""


command = Command(
    name="health",
    help="ask a running server whether it is healthy (exit 0: yes, 1: no)",
    run=run,
    add=_add,
    all_flags=True,
)
