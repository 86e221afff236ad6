"""The embedded service as real processes, for the tests that need one."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from tests.conftest import die_with_parent

T = TypeVar("T")


class Serve:
    """`espalier serve` in a process of its own."""

    def __init__(self, home: Path, *arguments: str, **environ: str) -> None:
        command = [sys.executable, "-m", "service.cli", "serve", "--home", str(home), *arguments]
        env = {**os.environ, "ESPALIER_PORT": "0", "ESPALIER_LEASE_SECONDS": "3", **environ}
        self.home = home
        self.process = subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def line(self) -> str:
        """What it says when it serves; empty if it ends without."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def url(self) -> str:
        found = re.search(r"http://\S+", self.line())
        assert found, self.log
        return found[0]

    def part(self, words: str) -> psutil.Process:
        """The direct child whose command line has these words."""
        return eventually(lambda: self.part_now(words))

    def part_now(self, words: str) -> psutil.Process | None:
        for child in psutil.Process(self.process.pid).children():
            try:
                if words in " ".join(child.cmdline()):
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=40)
        finally:
            self.process.kill()
            self._reader.join()
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            self.process.stdout.close()
            self.process.stderr.close()


def eventually(ask: Callable[[], T | None], seconds: float = 25.0) -> T:
    """The first answer that is not empty."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError("it did not come about")


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
