"""Is the worker of this container alive? The health check of the worker services.

In: the settings in the environment. Out: exit code 0 while a worker on this host reports itself to Redis, else 1 and a
line that says what is missing.
"""

import os
import socket
import sys

from schemas.errors import EspalierError
from state.jobs import JobStore, connect
from state.settings import Settings


def main() -> int:
    try:
        settings = Settings.from_env(os.environ)
        workers = JobStore(connect(settings.redis_url)).workers()
    except EspalierError as error:
        print(error)
        return 1
    host = socket.gethostname()
    if any(worker.host == host for worker in workers):
        return 0
    print(f"no worker of {host} has reported itself; {len(workers)} others have")
    return 1


if __name__ == "__main__":
    sys.exit(main())
