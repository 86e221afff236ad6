"""The API process: uvicorn around `service.app`, on an address or on a socket that was opened for it.

In: the settings in the environment, and `--fd N` for a listening socket of the embedded supervisor, which survives a
restart of this process. Out: a running service until SIGTERM. Refused: settings that make no sense, and an address that
cannot be had.
"""

import argparse
import logging
import os
import socket
import sys

from schemas.errors import EspalierError
from service.app import create_app
from service.server import make_server
from state.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m service.api", description="Serve the HTTP API.")
    parser.add_argument("--fd", type=int, help="a listening socket to use instead of ESPALIER_HOST and ESPALIER_PORT")
    descriptor = parser.parse_args().fd
    try:
        settings = Settings.from_env(os.environ)
        app = create_app(settings)
    except EspalierError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("espalier.http").setLevel(logging.INFO)
    sockets = [socket.socket(fileno=descriptor)] if descriptor is not None else None
    make_server(app, settings).run(sockets=sockets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
