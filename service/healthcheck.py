"""Is the API of this container alive? The image's health check.

In: the settings in the environment. Out: exit code 0 or 1, and a line when it is not.
"""

import http.client
import os
import sys

from state.settings import Settings

TIMEOUT_SECONDS = 3


def main() -> int:
    settings = Settings.from_env(os.environ)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  # compared, not bound
    connection = http.client.HTTPConnection(host, settings.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {host}:{settings.port}: {error}")
        return 1
    finally:
        connection.close()
    if status != http.client.OK:
        print(f"/healthz answered {status}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
