"""`espalier serve` as a process of its own, for benchmarks: start it, wait until it works, stop it."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def serving(*arguments: str, **environ: str) -> Iterator[tuple[str, int, Path]]:
    """The URL, the supervisor's process id and the home folder of a service on a free port."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--home", f"{folder}/home", *arguments],
            env={**os.environ, "ESPALIER_PORT": "0", **environ},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert started.stdout is not None
        try:
            found = re.search(r"http://\S+", started.stdout.readline())
            if found is None:
                raise SystemExit((Path(folder) / "log").read_text())
            yield found[0], started.pid, Path(folder) / "home"
        finally:
            started.terminate()
            started.wait(timeout=60)
            started.stdout.close()


def until_ready(url: str, seconds: float = 60.0) -> float:
    """Wait until a worker is there; how long that took."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return time.monotonic() - start
        time.sleep(0.05)
    raise SystemExit(f"{url} did not become ready: {httpx.get(f'{url}/readyz').text}")
