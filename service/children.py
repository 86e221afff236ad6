"""A child process whose life is tied to ours and whose lines carry its name.

In: a `Program`. Out: a running `Child`: its end can be awaited, its group stopped or killed, its last lines read.
Linux only: the kernel signals the child when we die (PR_SET_PDEATHSIG), so no crash of ours leaves a process behind.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

PR_SET_PDEATHSIG = 1
LAST_LINES = 20
LONGEST_LINE = 8192

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Program:
    """What to run, and which signal it gets if its parent dies."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    pass_fds: tuple[int, ...] = ()
    death_signal: signal.Signals = signal.SIGTERM


@dataclass
class Child:
    program: Program
    process: "subprocess.Popen[bytes]"
    ended: "asyncio.Future[int]"
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    def stop(self) -> None:
        """Ask it to finish."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """End it and everything in its group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def start(program: Program, say: Callable[[str, str], None]) -> Child:
    """Start in a group of its own: a terminal's Ctrl-C reaches only us. Call from the thread that runs the loop."""
    parent = os.getpid()

    def tie() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(program.death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the tie was made
            os._exit(1)

    process = subprocess.Popen(  # noqa: S603  # the programs are ours
        program.argv,
        env=program.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=program.pass_fds,
        start_new_session=True,
        preexec_fn=tie,  # noqa: PLW1509  # this process has one thread, so the child inherits no held lock
    )
    loop = asyncio.get_running_loop()
    child = Child(program, process, loop.create_future())
    _watch_output(child, loop, say)
    _watch_end(child, loop)
    return child


def _watch_end(child: Child, loop: asyncio.AbstractEventLoop) -> None:
    descriptor = os.pidfd_open(child.process.pid)

    def gone() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        code = child.process.wait()
        # What it left behind in its group would hold its files and sockets.
        child.kill()
        if not child.ended.done():
            child.ended.set_result(code)

    loop.add_reader(descriptor, gone)


def _watch_output(child: Child, loop: asyncio.AbstractEventLoop, say: Callable[[str, str], None]) -> None:
    pipe = child.process.stdout
    if pipe is None:
        raise AssertionError("the child was started with a pipe")
    os.set_blocking(pipe.fileno(), False)
    rest = b""

    def readable() -> None:
        nonlocal rest
        with suppress(BlockingIOError):
            chunk = os.read(pipe.fileno(), 1 << 16)
            *lines, rest = (rest + chunk).split(b"\n")
            if rest and (not chunk or len(rest) > LONGEST_LINE):
                lines, rest = [*lines, rest], b""
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                child.last_lines.append(text)
                say(child.program.name, text)
            if not chunk:
                loop.remove_reader(pipe.fileno())
                pipe.close()

    loop.add_reader(pipe.fileno(), readable)


def to_stderr(name: str, text: str) -> None:
    """One log line of one process."""
    with suppress(OSError):
        print(f"{name:<6} | {text}", file=sys.stderr, flush=True)
