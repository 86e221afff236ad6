"""A program that tries to break out, and says for each way what happened: `done` or the name of the error.

Usage: escapes.py full|off WORK SECRET OTHER_PID; the outcomes leave as JSON on stdout.
"""

import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from worker.sandbox import Confinement, confine, unconfined

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_CLONE3, SYS_IO_URING_SETUP, SYS_USERFAULTFD, SYS_MEMFD = 435, 425, 323, 319


def call(result: int) -> None:
    """A failed call of the C library becomes an OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def fork_a_process() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def execute() -> None:
    # An allowed exec would end this process: try it in a way that fails afterwards, with another error.
    try:
        os.execv("/bin/true", [])
    except ValueError:
        os.execv("/nonexistent", ["x"])


def mount(folder: Path) -> None:
    call(LIBC.mount(b"none", bytes(folder), b"tmpfs", 0, None))
    call(LIBC.umount2(bytes(folder), 0))


def ways(work: Path, secret: Path, other: int) -> dict[str, Callable[[], object]]:
    inside = work / "mine"
    inside.write_text("mine")
    (work / "folder").mkdir()
    return {
        "read another file": secret.read_text,
        "read passwd": Path("/etc/passwd").read_text,
        "list a folder": lambda: list(secret.parent.iterdir()),
        "list root": lambda: list(Path("/").iterdir()),
        "write another file": lambda: secret.write_text("x"),
        "truncate another file": lambda: os.truncate(secret, 0),
        "create beside": lambda: (secret.parent / "new").write_text("x"),
        "remove another file": (secret.parent / "victim").unlink,
        "rename in": lambda: (secret.parent / "victim").rename(work / "stolen"),
        "rename out": lambda: inside.rename(secret.parent / "planted"),
        "hard link in": lambda: os.link(secret, work / "linked"),
        "hard link within": lambda: os.link(inside, work / "twice"),
        "hard link one's input": lambda: os.link("/proc/self/exe", work / "python"),
        "symlink": lambda: (work / "soft").symlink_to(secret),
        "chmod": lambda: secret.chmod(0o777),
        "touch": lambda: os.utime(secret, (1, 1)),
        "chown": lambda: os.chown(secret, os.getuid(), os.getgid()),
        "mkfifo": lambda: os.mkfifo(work / "fifo"),
        "tcp socket": lambda: socket.socket(socket.AF_INET),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "socket pair": socket.socketpair,
        "exec": execute,
        "fork": fork_a_process,
        "clone3": lambda: call(LIBC.syscall(SYS_CLONE3, None, 0)),
        "signal another process": lambda: os.kill(other, 0),
        "signal everybody's group": lambda: os.killpg(os.getpgid(other), 0),
        "signal own group": lambda: os.kill(0, 0),
        "look into another process": lambda: Path(f"/proc/{other}/environ").read_bytes(),
        "ptrace": lambda: call(LIBC.ptrace(16, other, 0, 0)),
        "mount": lambda: mount(work / "folder"),
        "unshare": lambda: call(LIBC.unshare(0x10000000)),
        "new session": os.setsid,
        "raise a limit": lambda: resource.prlimit(0, resource.RLIMIT_NOFILE, (9, 9)),
        "io_uring": lambda: call(LIBC.syscall(SYS_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))),
        "userfaultfd": lambda: call(LIBC.syscall(SYS_USERFAULTFD, 1)),
        "memfd": lambda: call(LIBC.syscall(SYS_MEMFD, b"x", 0)),
        "shared memory": lambda: call(LIBC.shmget(0, 4096, 0o600)),
        # What a job needs must go on working.
        "read the input": (work.parent / "input").read_text,
        "write in the work folder": lambda: (work / "artifact").write_text("x"),
        "make and remove a folder": lambda: shutil.rmtree(work / "folder"),
        "replace a file": lambda: (work / "artifact").replace(work / "renamed"),
        "random": lambda: Path("/dev/urandom").open("rb").read(1),
        "throw away": lambda: Path("/dev/null").write_text("x"),
        "read one's limits": lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
        "signal oneself": lambda: os.kill(os.getpid(), 0),
    }


def outcome(way: Callable[[], object]) -> str:
    try:
        way()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def main(level: str, work: Path, secret: Path, other: int) -> None:
    tries = ways(work, secret, other)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    plan = Confinement((work.parent / "input",), work, cpu_seconds=60, memory_bytes=2**30, file_bytes=2**20)
    sandbox = confine(plan) if level == "full" else unconfined(plan)
    said = {name: outcome(way) for name, way in tries.items()}
    print(json.dumps({"level": sandbox.level, "missing": sandbox.missing, "outcomes": said}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
