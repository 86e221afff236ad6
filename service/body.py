"""A request's body, in pieces that are worth a worker thread's while.

In: the ASGI stream. Out: pieces of about a megabyte, or the whole of a small body. Refused: a small body that is not
small. Memory is one piece, whatever the size of the body. After the body, the stream tells only when the caller
leaves.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable

from starlette.requests import Request

from schemas.errors import EspalierError

PIECE_BYTES = 1024 * 1024


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in order. Each piece is hashed and written by a thread, and a thread for every packet is too many."""
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) >= PIECE_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


async def whole(request: Request, limit: int) -> bytes:
    """All of a small body."""
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > limit:
            raise EspalierError("payload_too_large", f"this body may have {limit} bytes; send files as blobs")
    return bytes(held)


async def until_gone(request: Request, work: Awaitable[None]) -> bool:
    """Waits for `work` as long as the caller stays. False: the caller went away, and the work was stopped."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
        return doing.done()
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
