"""The worker's side of the launcher: start it, have it fork a child, follow the child to its end, kill it if need be.

In: an order, and a guard that is asked several times a second whether the child must stop. Out: `Ending`. Refused:
nothing the child says is trusted: lines are bounded and checked, its output is drained and only the tail kept.
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from schemas.errors import Failure
from schemas.job import Progress
from worker.orders import Line, Order
from worker.sandbox import Sandbox

MESSAGE_BYTES = 4096
READ_BYTES = 65536
LINE_BYTES = 1024 * 1024
LOG_BYTES = 16384
LOOK_SECONDS = 0.1
START_SECONDS = 120.0
DRAIN_SECONDS = 5.0
# A job's process hears nothing of the worker's settings: no address of Redis, no credentials.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_DIR")
PASSED_ON_CUDA = ("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")

log = logging.getLogger(__name__)


class LauncherDied(Exception):
    """The launcher is gone, and its child with it."""


@dataclass(frozen=True)
class Ending:
    """How a child ended. `stopped`: why the guard had it killed. `signal`: what else killed it."""

    done: bool
    failure: Failure | None
    stopped: str | None
    signal: signal.Signals | None
    exit_code: int | None
    sandbox: Sandbox | None
    log_tail: str = field(repr=False)


@dataclass
class _Heard:
    """What a child has said so far."""

    progress: Callable[[Progress], None]
    text: bytes = b""
    log: bytes = b""
    done: bool = False
    failure: Failure | None = None
    sandbox: Sandbox | None = None
    broken: bool = False

    def lines(self, chunk: bytes) -> None:
        *whole, self.text = (self.text + chunk).split(b"\n")
        if len(self.text) > LINE_BYTES:
            self.text, self.broken = b"", True
        for text in whole:
            self._line(text)

    def _line(self, text: bytes) -> None:
        try:
            line = Line.model_validate_json(text)
        except ValidationError:
            self.broken = True
            return
        if line.progress is not None:
            self.progress(line.progress)
        self.sandbox = self.sandbox or line.confined
        self.done = self.done or line.done is True
        self.failure = self.failure or line.failure

    def output(self, chunk: bytes) -> None:
        self.log = (self.log + chunk)[-LOG_BYTES:]


def launcher_environment(environ: Mapping[str, str], *, cuda: bool) -> dict[str, str]:
    """What the launcher finds in its environment."""
    names = PASSED_ON + (PASSED_ON_CUDA if cuda else ())
    kept = {name: environ[name] for name in names if name in environ}
    if not cuda:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    # Threads that wait busily cost several times the work on a machine whose cores are shared.
    kept |= {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    # glibc reserves 64 MiB of addresses for each thread's arena, which would count against the job's limit.
    return {**kept, "MALLOC_ARENA_MAX": "4", "PYTHONUNBUFFERED": "1"}


@dataclass
class Launcher:
    """One launcher and, at most, one child at a time. Start it from a thread that lives as long as the process."""

    command: Sequence[str]
    environ: Mapping[str, str]
    _process: "subprocess.Popen[bytes] | None" = None
    _control: socket.socket | None = None
    _ready: bool = False
    _busy: threading.RLock = field(default_factory=threading.RLock)

    def start(self) -> None:
        """Start the process, without waiting for its imports."""
        with self._busy:
            self.close()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                    [*self.command, str(os.getpid()), str(theirs.fileno())],
                    env=dict(self.environ),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            ours.settimeout(START_SECONDS)
            self._control = ours
            self._ready = False

    def close(self) -> None:
        """Kill the launcher; its child dies with it."""
        with self._busy:
            if self._control is not None:
                self._control.close()
                self._control = None
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def run(
        self, order: Order, path: Path, guard: Callable[[int], str | None], progress: Callable[[Progress], None]
    ) -> Ending:
        """Have a child carry out the order, which is written to `path`. Raises `LauncherDied`."""
        path.write_text(order.model_dump_json(by_alias=True))
        with self._busy:
            try:
                return self._follow(self._awake(), path, guard, _Heard(progress))
            except (OSError, LauncherDied) as error:
                self.close()
                raise LauncherDied(str(error)) from error

    def _awake(self) -> socket.socket:
        """The socket to a launcher that is ready; a dead one is replaced."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        assert self._control is not None
        if not self._ready:
            self._receive(self._control)
            self._ready = True
        return self._control

    def _receive(self, control: socket.socket) -> bytes:
        message = control.recv(MESSAGE_BYTES)
        if not message:
            raise LauncherDied("the launcher closed its socket")
        return message

    def _follow(self, control: socket.socket, path: Path, guard: Callable[[int], str | None], heard: _Heard) -> Ending:
        results, results_in = os.pipe2(os.O_CLOEXEC)
        output, output_in = os.pipe2(os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, results)
            stack.callback(os.close, output)
            try:
                socket.send_fds(control, [str(path).encode()], [results_in, output_in])
            finally:
                os.close(results_in)
                os.close(output_in)
            pid = int(json.loads(self._receive(control))["pid"])
            with selectors.DefaultSelector() as selector:
                selector.register(results, selectors.EVENT_READ, heard.lines)
                selector.register(output, selectors.EVENT_READ, heard.output)
                selector.register(control, selectors.EVENT_READ)
                stopped, ended = self._watch(selector, pid, guard)
                self._drain(selector)
            control.send(b"reap")
        return _ending(heard, stopped, ended)

    def _watch(
        self, selector: selectors.BaseSelector, pid: int, guard: Callable[[int], str | None]
    ) -> tuple[str | None, dict[str, int]]:
        """Listen until the launcher says how the child ended; kill its group once the guard wants it."""
        stopped = None
        while True:
            for key, _ in selector.select(LOOK_SECONDS):
                if isinstance(key.fileobj, socket.socket):
                    selector.unregister(key.fileobj)
                    return stopped, json.loads(self._receive(key.fileobj))
                _take(selector, key)
            if stopped is None and (stopped := guard(pid)) is not None:
                log.info("process %d is killed: %s", pid, stopped)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _drain(self, selector: selectors.BaseSelector) -> None:
        """What the child said last. Its group is dead, so both pipes end; unless, unconfined, some process left it."""
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until and len(selector.get_map()) > 0:
            for key, _ in selector.select(1.0):
                _take(selector, key)


def _take(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    chunk = os.read(key.fd, READ_BYTES)
    if chunk:
        key.data(chunk)
    else:
        selector.unregister(key.fileobj)


def _ending(heard: _Heard, stopped: str | None, ended: Mapping[str, int]) -> Ending:
    signalled = bool(ended["signalled"])
    return Ending(
        done=heard.done and not signalled and ended["status"] == 0 and not heard.broken,
        failure=heard.failure,
        stopped=stopped,
        signal=signal.Signals(ended["status"]) if signalled else None,
        exit_code=None if signalled else ended["status"],
        sandbox=heard.sandbox,
        log_tail=heard.log.decode(errors="replace"),
    )


def resident_bytes(pid: int) -> int:
    """The memory that a process and its descendants hold, without the files they have mapped."""
    total = 0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text()
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            for task in tasks:
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        kibi = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem")))
        total += sum(int(text.split()[0]) * 1024 for text in kibi.values())
    return total
