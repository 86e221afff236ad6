"""Confine the calling process for good: what a job may read, write, use and call.

In: a `Confinement`, in a process that has one thread. Out: a `Sandbox`: the level reached and what is missing. Refused:
nothing; the caller decides whether less than `full` will do. No privilege is needed and nothing can be undone.

Layers: resource limits; no new privileges; Landlock (paths); seccomp (calls, see `worker/syscalls.py`). Landlock and
seccomp bind the calling thread and what it starts, hence before there are threads.
"""

import ctypes
import os
import resource
import signal
import stat
import struct
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.syscalls import filter_program

Level = Literal["full", "partial", "off"]

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

# The same numbers on every architecture that Linux gained these calls on.
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1

# linux/landlock.h, LANDLOCK_ACCESS_FS_*
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG = 1 << 7, 1 << 8
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
# How many access rights each version of the interface knows (bits 0..n-1).
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
NET_RIGHTS = 0b11  # bind and connect, since version 4
SCOPES = 0b11  # abstract unix sockets and signals, since version 6
# Before version 2 hard links between folders were always refused, before 3 files could be truncated everywhere.
LANDLOCK_ENOUGH = 3

READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG

OPEN_FILES = 1024


@dataclass(frozen=True)
class Confinement:
    """What one process may do. `memory_bytes` None: no limit on the address space (CUDA maps far more than it uses).
    `run`: the programs that it may start, which are confined as it is."""

    read: tuple[Path, ...]
    write: Path
    cpu_seconds: int
    memory_bytes: int | None
    file_bytes: int
    cuda: bool = False
    run: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Sandbox:
    """How far a process is confined."""

    level: Level
    missing: tuple[str, ...] = ()


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends; leave at once where it has ended already."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def confine(plan: Confinement) -> Sandbox:
    """Take away everything that `plan` does not name."""
    _limit(plan)
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    paths = _restrict_paths(plan)
    # Which programs those are is Landlock's to see to: without it there are none.
    reached = {"landlock": paths, "seccomp": _restrict_calls(plan.cuda, programs=paths and bool(plan.run))}
    missing = tuple(name for name, done in reached.items() if not done)
    return Sandbox("full" if not missing else "off" if len(missing) == len(reached) else "partial", missing)


def unconfined(plan: Confinement) -> Sandbox:
    """The resource limits alone, for `ESPALIER_SANDBOX=off`."""
    _limit(plan)
    return Sandbox("off", ("landlock", "seccomp"))


def _limit(plan: Confinement) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: plan.cpu_seconds,
        resource.RLIMIT_FSIZE: plan.file_bytes,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    if plan.memory_bytes is not None:
        # The libraries are mapped already, and are no fault of the job's.
        limits[resource.RLIMIT_AS] = plan.memory_bytes + _mapped_bytes()
    for which, wanted in limits.items():
        # SIGXCPU tells that it was the CPU time; at the hard limit comes SIGKILL, which could be anything.
        _lower(which, wanted, wanted + 2 if which == resource.RLIMIT_CPU else wanted)


def _lower(which: int, soft: int, hard: int) -> None:
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


# ---- Landlock


def landlock_version() -> int:
    """The version of the kernel's Landlock interface; 0 where there is none."""
    return int(max(_libc().syscall(SYS_LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION), 0))


def _restrict_paths(plan: Confinement) -> bool:
    """Whether Landlock now holds. Rights that an older kernel does not know are left out, and then it does not."""
    version = landlock_version()
    if version < LANDLOCK_ENOUGH:
        return False
    known = (1 << FS_RIGHTS.get(version, 16)) - 1
    scoped = SCOPES if version >= 6 else 0
    attributes = struct.pack("=QQQ", known, NET_RIGHTS if version >= 4 else 0, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _libc().syscall(SYS_LANDLOCK_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return False
    try:
        for path, rights in _rules(plan):
            _allow(ruleset, path, rights & known)
        return bool(_libc().syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _rules(plan: Confinement) -> Iterable[tuple[Path, int]]:
    yield from ((path, READ) for path in (*plan.read, *_runtime()))
    yield from ((Path("/dev") / name, READ_FILE) for name in ("urandom", "random", "zero"))
    yield Path("/dev/null"), READ_FILE | WRITE_FILE
    if plan.cuda:
        yield from ((path, READ_FILE | WRITE_FILE | IOCTL_DEV) for path in sorted(Path("/dev").glob("nvidia*")))
        yield from ((Path(path), READ) for path in ("/proc/driver/nvidia", "/sys/bus/pci", "/sys/devices/pci0000:00"))
    yield from ((path, READ_FILE | EXECUTE) for path in plan.run)
    yield plan.write, WRITE


def _runtime() -> tuple[Path, ...]:
    """What Python and its extension modules read. Not the folders of `sys.path`: the data may lie below one of them."""
    library = sysconfig.get_paths()
    # Packages may lie anywhere; those that are loaded may load more of themselves.
    loaded = [module for name, module in sys.modules.items() if "." not in name]
    packages = {Path(folder) for module in loaded for folder in getattr(module, "__path__", ())}
    names = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/usr/local/cuda", "/usr/share/zoneinfo")
    files = ("/etc/ld.so.cache", "/etc/localtime", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self")
    kernel = ("/sys/devices/system", "/sys/fs/cgroup")
    python = {library[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    shared = {sysconfig.get_config_var("LIBDIR") or library["stdlib"], str(Path(sys.base_prefix) / "lib")}
    return (*sorted(packages), *(Path(path) for path in (*names, *files, *kernel, *sorted(python | shared))))


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be allowed
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV | EXECUTE
        attributes = struct.pack("=Qi", rights, descriptor)
        if _libc().syscall(SYS_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, attributes, 0) != 0:
            raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
    finally:
        os.close(descriptor)


# ---- seccomp


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _restrict_calls(cuda: bool, *, programs: bool) -> bool:
    """Whether seccomp now holds; not on an architecture whose call numbers are not known here."""
    text = filter_program(os.uname().machine, os.getpid(), cuda=cuda, programs=programs)
    if text is None:
        return False
    buffer = ctypes.create_string_buffer(text, len(text))
    program = _Program(len(text) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    return bool(_libc().prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def main() -> None:
    """Confine this process as a job's, and print the level: `full`, or what is missing after `partial` or `off`."""
    plan = Confinement((), Path.cwd(), cpu_seconds=60, memory_bytes=None, file_bytes=1024)
    sandbox = confine(plan)
    print(sandbox.level, *sandbox.missing)


if __name__ == "__main__":
    main()
