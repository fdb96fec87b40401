"""In front of all routes: who may come in, and how large a body may be. Reads it whole, so that no route waits for one.

Plain ASGI: what wraps a stream's `receive` must not keep the news that its client has left.
"""

import asyncio
import hmac
import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eagle.serving.refusal import Refusal, invalid

BODY_TIMEOUT_S = 30.0  # a client that never sends the rest holds a connection no longer


class Json(Response):
    """JSON in ASCII: whatever a client wrote can be said back."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


def refused(refusal: Refusal) -> Json:
    return Json(refusal.body(), refusal.status, headers=dict(refusal.headers))


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, api_key: str | None, max_bytes: int):
        self._app, self._max_bytes = app, max_bytes
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        try:
            self._check_key(scope["path"], headers)
            body = await self._body(headers, receive)
        except Refusal as refusal:
            return await refused(refusal)(scope, receive, send)
        if body is not None:
            await self._app(scope, _again(body, receive), send)

    def _check_key(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        if self._expected is None or not path.startswith("/v1/"):
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, self._expected):
            told = "no API key was sent" if not given else "this API key is not the server's"
            raise Refusal(401, f"{told}: send 'Authorization: Bearer KEY'", None, "invalid_api_key")

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """None where the client has left before its end."""
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        num_bytes, more = 0, True
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    num_bytes, more = num_bytes + len(parts[-1]), message.get("more_body", False)
                    if num_bytes > self._max_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive in {BODY_TIMEOUT_S:g} s") from None
        return b"".join(parts)

    def _too_large(self) -> Refusal:
        refusal = invalid(f"the body is larger than {self._max_bytes} bytes: send less", None, "request_too_large")
        return Refusal(413, refusal.message, None, refusal.code, headers={"Connection": "close"})


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` for those behind the gate: the body once, then what really comes."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
