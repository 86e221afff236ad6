"""uvicorn around the app, taught to leave: whoever waits for events is let go when the process is told to stop.

In: the app and its settings. Out: a server that has not started yet. Nothing is refused here.
"""

from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.context import Service
from state.settings import Settings

# What is still being answered after this long is cut off: an upload that goes on, whose client sends it again.
DRAIN_SECONDS = 5


class Server(uvicorn.Server):
    """Listeners stay for as long as a job runs; without a word to them the server would wait for them."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.feed.stopping.set()
        super().handle_exit(sig, frame)


def make_server(app: FastAPI, settings: Settings) -> Server:
    """A server for the app, on the address of the settings."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,  # the app logs its requests itself, with their ids (logger `espalier.http`)
        server_header=False,
        ws="none",
        proxy_headers=False,  # no answer depends on them
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return Server(config, app.state.service)
