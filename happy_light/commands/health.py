"""`health`: asks a running server whether it is well; for containers and scripts, without curl."""

from __future__ import annotations

import argparse
import json
import sys

from happy_light.config import Settings
from happy_light.errors import OperatorError

NAME = "health"
HELP = "ask a running server whether it is well (exit 0: yes, 1: no)"
ALL_FLAGS = True
_TIMEOUT = 5  # s


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command, besides the settings."""
    parser.add_argument("--url", help="the server to ask; by default the one that these settings start")
    parser.add_argument("--quiet", action="store_true", help="only the exit code")


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Ends the process with 1 if it is not. Raises StartError."""
    from happy_light.config import setting_types
    from happy_light.http import addresses

    if arguments.url is not None:
        try:
            url, known = setting_types.url(arguments.url), False
        except ValueError as error:
            raise OperatorError(f"--url is {arguments.url!r}, but should be {error}.") from None
    elif settings.port == 0:
        raise OperatorError("PORT is 0, so nobody knows the port; say which server with --url.")
    else:
        url, known = addresses.url(settings, addresses.reachable(settings.host)[0], settings.port), True
    problem = ask(url, trust=known)
    if not arguments.quiet:
        print(
            f"{url} is well" if not problem else f"{url} is not well: {problem}", file=sys.stderr if problem else None
        )
    if problem:
        sys.exit(1)


def ask(url: str, trust: bool) -> str:
    """GET /health. `trust`: any certificate will do, for this computer's own server. -> what is wrong, or nothing"""
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
        return f"it answers {error.code}"
    except OSError as error:  # URLError and timeouts too
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason)
    except (HTTPException, ValueError):
        return "it is another program"
    if not isinstance(answer, dict) or answer.get("status") != "ok":
        return "it is another program"
    return ""
