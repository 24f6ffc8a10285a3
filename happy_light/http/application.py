"""The HTTP application: find the route, authenticate, decode, call the endpoint, encode."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from happy_light import json_codec
from happy_light.auth.authentication import still_exists
from happy_light.context import ServerContext
from happy_light.errors import (
    INVALID_TOKEN,
    REGISTRATION_CLOSED,
    ApiError,
    BadRequest,
    OperatorError,
    ServiceUnavailable,
)
from happy_light.http.body import SIZE_MAX, ClientGone
from happy_light.http.conditional import answer_conditionally
from happy_light.http.forwarded import printable_address
from happy_light.http.request import Request
from happy_light.http.responses import failure, not_found, refusal, refuse_body, send_json
from happy_light.http.router import Route, Router

log = logging.getLogger(__name__)
access_log = logging.getLogger("happy_light.access")

PUBLIC_BODY_MAX: Final = 64 * 1024  # bytes of a body that comes without a token


Admit = Callable[[Request[Any, Any], Route], Awaitable[None]]
"""Returns if a request may be answered, before its body is read; raises ApiError to refuse it."""


class HttpApplication:
    """The ASGI application over all routes. A GET that no route takes goes to `fallback`, if there is one.

    `admit` decides who is answered, in the place of the tokens of accounts.
    """

    def __init__(
        self,
        context: ServerContext,
        routes: Iterable[Route],
        fallback: Route | None = None,
        admit: Admit | None = None,
    ) -> None:
        self.context = context
        self.fallback = fallback
        self._admit = admit
        self.router = Router(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        method = scope["method"]
        route, parameters = self._find(method, scope["raw_path"].decode("ascii"))
        request: Request[Any, Any] = Request(self.context, scope, receive, parameters)
        try:
            response = not_found(scope) if route is None else await self._answer(request, route)
            if request.has_unread_body:
                await request.discard_body()
            if isinstance(response, Response):
                if not isinstance(response, StreamingResponse):  # which is not in memory as a whole
                    request.reserve_answer(len(response.body))
                status = response.status_code
                await response(scope, receive, send)
            else:
                body = json_codec.encode(response)
                request.reserve_answer(len(body))
                status = 200
                await send_json(send, body)
        except (ApiError, BadRequest) as error:
            response = refusal(error) if isinstance(error, ApiError) else failure(error.status, str(error))
            status = response.status_code
            await refuse_body(request, response, send)
        except ClientGone:
            return
        finally:
            request.release()
        # Clients choose unknown methods and paths freely, so these are no labels of metrics.
        method, path = (method, route.path) if route is not None else ("any", "none")
        client = request.header(b"x-happy-client")
        seconds = time.perf_counter() - started
        self.context.counters.request(method, path, status, client, seconds)
        if self.context.settings.access_log:
            self._log_access(request, status, seconds)

    def _log_access(self, request: Request[Any, Any], status: int, seconds: float) -> None:
        """Log a request that was answered, without its query."""
        scope = request.scope
        access_log.info(
            "%s %s %s %d %.1f ms", printable_address(self.context.settings, scope), scope["method"],
            scope["raw_path"].decode("ascii"), status, 1000 * seconds,
        )  # fmt: skip

    def _log_refusal(self, request: Request[Any, Any], route: Route, error: ApiError) -> None:
        """Log a sign-in or a token that was refused, with the address that it came from."""
        refused = error.response
        if refused.status != 401 and refused is not REGISTRATION_CLOSED:
            return
        address = printable_address(self.context.settings, request.scope)
        if route.public and route.path.startswith(("/v1/auth", "/admin/session")):
            key = f", key {error.extra['fingerprint']}" if "fingerprint" in error.extra else ""
            log.warning("sign-in refused from %s: %s%s", address, refused.error, key)
        else:
            log.info("token refused from %s: %s %s: %s", address, route.method, route.path, refused.error)

    def _find(self, method: str, path: str) -> tuple[Route | None, dict[str, str]]:
        found = self.router.find("GET" if method == "HEAD" else method, path)
        if found is not None:
            return found
        return (self.fallback if method in ("GET", "HEAD") else None), {}

    async def _answer(self, request: Request[Any, Any], route: Route) -> Response | Any:
        """Return the endpoint's value or response, or the response of the error that it raised.

        Raises BadRequest with 408 or 413, and ApiError with 413, when the body has not been read, and ClientGone.
        """
        try:
            answer = await self._call(request, route)
            if not isinstance(answer, Response):  # others hold files, and were authorized when they were made
                await request.check_still_signed_in()
            return answer
        except ApiError as error:
            if error.response.status == 413 and request.has_unread_body:
                raise
            return await self._refuse(request, route, error)
        except BadRequest as error:
            if error.status in (408, 413):
                raise
            return failure(error.status, str(error))
        except (msgspec.DecodeError, UnicodeError) as error:
            return failure(400, str(error))
        except RecursionError:
            return failure(400, "The JSON is nested too deeply")
        except ServiceUnavailable as error:
            return failure(503, str(error))
        except OperatorError as error:  # of the admin API
            return failure(503, str(error))
        except ClientGone:
            raise
        except MemoryError:
            return failure(503, "The server has too little memory for this request")
        except Exception as error:
            if request.account_id and not await still_exists(self.context.database, request.account_id):
                return await self._refuse(request, route, ApiError(INVALID_TOKEN))
            log.error("%s %s", route.method, route.path, exc_info=error)
            return failure(500, "An unexpected error occurred")

    async def _refuse(self, request: Request[Any, Any], route: Route, error: ApiError) -> Response:
        """Return the answer of a refusal; that of a sign-out if the account was signed out or deleted meanwhile."""
        if request.account_id and error.response is not INVALID_TOKEN:
            try:
                await request.check_still_signed_in()
            except ApiError as signed_out:
                error = signed_out
            except ServiceUnavailable as unavailable:
                return failure(503, str(unavailable))
        self._log_refusal(request, route, error)
        return refusal(error)

    async def _call(self, request: Request[Any, Any], route: Route) -> Any:
        """Check the request and call the endpoint."""
        if self._admit is not None:
            await self._admit(request, route)
        elif not route.public:
            await request.authenticate()
        elif route.path.startswith("/v1/"):
            self.context.limits.count_request(request.scope)
        if route.query is not None:
            request.query = route.decode_query(request.scope["query_string"])
        if route.takes_body and not route.streams:
            raw = await request.read(PUBLIC_BODY_MAX if route.public else SIZE_MAX)
            request.body = route.decode_body(raw, request.header(b"content-type"))
            del raw  # the decoded body is enough
        if route.conditional:
            return await answer_conditionally(request, route.endpoint, route.timed)
        return await route.endpoint(request)
