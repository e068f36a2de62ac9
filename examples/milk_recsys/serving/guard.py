"""What every request passes before the application: the token, the size of the body, errors.

Nothing of a request is logged: neither paths nor bodies, and of an error only its type and place.
"""

from __future__ import annotations

import hmac
import json
import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["OPEN_PATHS", "Guard"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health",)  # Answered without a token, for the checks of a load balancer.
LOG = logging.getLogger("milk_recsys.serving")


class Guard:
    """An ASGI application in front of another one.

    Arguments:
        token: that requests must bring as ``Authorization: Bearer TOKEN``, or None.
        max_bytes: maximum size of a body.
    """

    def __init__(self, application: Application, token: str | None, max_bytes: int) -> None:
        self._application, self._max_bytes = application, max_bytes
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it to the application."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._allowed(scope["path"], headers.get(b"authorization", b"")):
            further = [(b"www-authenticate", b"Bearer")]
            await _refuse(send, 401, "a valid token is needed.", further)
            return
        body = await self._body(headers.get(b"content-length", b""), receive)
        if body is None:
            await _refuse(send, 413, f"the body is larger than {self._max_bytes} bytes.", [])
            return
        started, given = False, False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._application(scope, replay, watched)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            LOG.error("%s in %s, line %s", type(error).__name__, last.filename, last.lineno)
            if not started:
                await _refuse(send, 500, "internal error.", [])

    def _allowed(self, path: str, given: bytes) -> bool:
        if self._expected is None or path in OPEN_PATHS:
            return True
        return hmac.compare_digest(given, self._expected)

    async def _body(self, stated: bytes, receive: Receive) -> bytes | None:
        """Return the body, or None if it is too large; then the rest is not read."""
        if stated.isdigit() and (len(stated) > 18 or int(stated) > self._max_bytes):
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(parts)
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_bytes:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


async def _refuse(send: Send, status: int, detail: str, further: list[tuple[bytes, bytes]]) -> None:
    content = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *further,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
