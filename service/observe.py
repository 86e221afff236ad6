"""The outermost layer: names each request, counts it, logs it, and makes sure that every request ends with an answer.

In: any ASGI request. Out: the same, with `X-Request-ID` on the response, one log line, and the figures for /metrics.
An exception that nobody foresaw becomes a 500 without its traceback, which goes to the log under the request's id.
Nothing is refused here.

A response that leaves before its request's body has arrived (a 401, a 413, an unknown form field) closes the
connection, because the rest of the body has no reader. Closing at once would reset the connection, and the caller
would often see that instead of the answer; so a little is read first, and no more.
"""

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import EspalierError
from service.errors import problem_response
from service.metrics import Metrics

LINGER_BYTES = 256 * 1024
LINGER_SECONDS = 0.5
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

log = logging.getLogger("espalier.http")


class Observe:
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(scope, receive, send, request_id)
        started = time.perf_counter()
        try:
            await self._answer(scope, exchange, request_id)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            seconds = time.perf_counter() - started
            self.metrics.observe(str(scope["method"]), route, exchange.status, seconds)
            owner = scope["state"].get("owner", "-")
            path = ascii(scope["path"])  # a path may hold decoded line ends, which would forge lines
            log.info("%s %s %s %d %.3fs %s", request_id, scope["method"], path, exchange.status, seconds, owner)

    async def _answer(self, scope: Scope, exchange: "_Exchange", request_id: str) -> None:
        """The edge of the process: the one place that catches whatever comes."""
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            log.info("%s the caller went away", request_id)
        except Exception as error:
            log.exception("%s %s %s", request_id, scope["method"], ascii(scope["path"]))
            if exchange.status:
                raise
            detail = f"The service failed on this request ({type(error).__name__}); its log has more."
            failure = EspalierError("internal_error", detail).failure
            response = problem_response(failure, path=scope["path"], request_id=request_id)
            await response(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its response: whether the body has been read to its end, and what was answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        self._unread = "transfer-encoding" in headers or length.strip("0") != ""
        # A caller that asks first has sent nothing that could be lost.
        self._asks_first = headers.get("expect", "").lower() == "100-continue"
        self._linger = False
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            if self._unread:
                headers["Connection"] = "close"
                self._linger = not self._asks_first
        elif self._linger and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._read_a_little()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _read_a_little(self) -> None:
        read = 0
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while self._unread and read < LINGER_BYTES:
                    read += len((await self.receive()).get("body", b""))
                if self._unread:
                    # A long body: nothing more is read, so its sender stalls and has time to see the answer.
                    await asyncio.sleep(LINGER_SECONDS)
        except TimeoutError:
            pass
