"""The start page for browsers: how to connect clients, and the state of the server. It loads nothing else."""

from __future__ import annotations

import dataclasses
import functools
import html
import shlex
from string import Template
from typing import Any, Final

from starlette.responses import Response

from happy_light import __version__, threads
from happy_light.config import Settings
from happy_light.context import ServerContext
from happy_light.domains import auth
from happy_light.errors import ServiceUnavailable
from happy_light.http import addresses, forwarded
from happy_light.http.request import Request
from happy_light.ui import build, look

_QR_MAX: Final = 120  # characters; the code of a longer address is too fine for cameras, and takes over 4 ms
_QR_MASK: Final = 3  # of eight; to compare them all takes several times as long as the rest
_REGISTRATION: Final = {
    "open": "Open: whoever reaches this server can create an account",
    "first": "Open for the first account, then closed",
    "closed": "Closed: no new accounts",
}


async def answer(request: Request[Any, Any]) -> Response:
    """Return the start page. It shows the address of PUBLIC_URL, else the one of this request."""
    settings = request.context.settings
    url, asked = forwarded.server_url(settings, request.scope), forwarded.requested_url(settings, request.scope)
    template, style, script = _parts()
    port: int = request.scope["server"][1]
    scan = url if not addresses.is_loopback_url(url) else next(iter(_for_phones(settings, port)), None)
    qr = await threads.run(_figure, scan) if scan else ""
    problem = await request.context.health.problem()
    app = request.context.web_app
    web_app = await threads.run(build.is_there, settings)
    body = template.substitute(
        url=html.escape(url),
        explicit="no" if settings.public_url is None else "yes",
        notice=_insecure(settings, asked),
        qr=qr,
        reach=_reach(settings, url, port),
        once=html.escape(f"HAPPY_SERVER_URL={shlex.quote(url)} happy"),
        always=html.escape(f"export HAPPY_SERVER_URL={shlex.quote(url)}"),
        health=html.escape(problem or "Healthy"),
        health_class="bad" if problem else "",
        version=html.escape(__version__),
        registration=html.escape(await registration(request.context)),
        webapp=f'<p>Or use the <a href="{app.prefix}">web app</a> of this server.</p>' if web_app else "",
        webapp_state=(
            f'<a href="{app.prefix}">{app.prefix}</a>'
            if web_app
            else "None; <code>HAPPY_SERVER_UI_DIR</code> names the folder of a build"
        ),
    )
    headers = {**look.headers(style, script), "cache-control": "no-store", "vary": "accept"}
    return Response(look.page("Happy Server", body, style, script), 200, headers, media_type="text/html")


async def registration(context: ServerContext) -> str:
    """Return who may create an account, as a sentence."""
    try:
        chosen = await context.database.read(auth.registration_mode)
    except ServiceUnavailable:  # which the page says, too
        chosen = None
    return _REGISTRATION[chosen or context.settings.registration]


def _insecure(settings: Settings, asked: str) -> str:
    if asked.startswith("https://") or addresses.is_loopback_url(asked):
        return ""
    public = settings.public_url or ""
    link = html.escape(public)
    instead = f'Open <a href="{link}">{link}</a> instead.' if public.startswith("https://") else ""
    return (
        '<p class="notice" id="insecure" role="note"><strong>This page came over plain http.</strong> The web app '
        "works only over https or on localhost, since browsers offer cryptography nowhere else; and on the way "
        f"others can read the tokens that clients sign in with. {instead}</p>"
    )


def _reach(settings: Settings, url: str, port: int) -> str:
    """Return a hint how phones reach the server, if the address works on this computer only."""
    if not addresses.is_loopback_url(url):
        return ""
    if not addresses.is_loopback(settings.host):
        links = ", ".join(f'<a href="{other}">{other}</a>' for other in _for_phones(settings, port))
        cure = f"In your network the server is at {links}." if links else "It is in no network at present."
    else:
        cure = "For a phone, start the server with <code>--host 0.0.0.0</code>, or put https in front of it."
    return f'<p class="hint">Only this computer reaches it. {cure}</p>'


def _for_phones(settings: Settings, port: int) -> list[str]:
    """Return the URLs at which phones reach the server, whatever PUBLIC_URL says."""
    return addresses.for_phones(dataclasses.replace(settings, public_url=None), settings.host, port)


@functools.lru_cache(maxsize=16)
def _figure(url: str) -> str:
    """Return the address as a QR code, dark on white in the dark theme too: not every camera reads inverted codes."""
    if len(url) > _QR_MAX:
        return ""
    import segno

    code = segno.make(url, error="m", micro=False, mask=_QR_MASK, boost_error=False)
    svg = code.svg_inline(border=3, omitsize=True, svgclass=None, lineclass=None, dark="#1b1a17", light="#fff")
    return (
        f'<figure class="qr"><div role="img" aria-label="QR code of {html.escape(url)}">{svg}</div>'
        f"<figcaption>Scan it to open {html.escape(url)} and copy the address there</figcaption></figure>"
    )


@functools.cache
def _parts() -> tuple[Template, str, str]:
    """Return the body of the page, its style and its script."""
    return Template(look.read("page.html")), look.read("page.css"), look.read("page.js")
