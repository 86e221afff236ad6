"""The seccomp filter of a job: which system calls fail, as a BPF program.

In: the machine's name, the process' own pid. Out: the program's bytes, or None for an architecture that is not listed.
The rest stays allowed: torch, onnxruntime and CUDA need many calls, and those that reach other processes, other users'
files (Landlock does not see chmod, chown and times), the network or the kernel are the ones below.
"""

import errno
import struct
from collections.abc import Iterator

# name -> (x86_64, aarch64); None where the architecture has no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # the network, and sockets of every family
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "recvmsg": (47, 212),
    "recvmmsg": (299, 243),
    # other programs and processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "setrlimit": (160, 164),
    # memory outside of what is watched, and messages between processes
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # names, owners, modes and times of files
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # identities
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setgroups": (116, 159),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "capset": (126, 91),
    # the kernel's more dangerous doors
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "vhangup": (153, 58),
}
# Files without a folder hold memory that no one counts; the CUDA driver needs them.
MEMFD_CREATE = (319, 279)

# What starting a program takes.
STARTING = ("execve", "fork", "vfork")

# Judged by their arguments.
CLONE = (56, 220)
CLONE3 = (435, 435)
KILL = (62, 129)
TGKILL = (234, 131)
PRLIMIT64 = (302, 261)
IOCTL = (16, 29)

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
X32_CALLS = 0x40000000
CLONE_THREAD = 0x00010000
TIOCSTI = 0x5412

# linux/filter.h and linux/seccomp.h
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE = 0, 4
ALLOW, KILL_PROCESS, FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def filter_program(machine: str, pid: int, *, cuda: bool, programs: bool = False) -> bytes | None:
    """The filter for a process with this pid: `struct sock_filter[]`. `programs`: it may start some, which Landlock
    chooses."""
    if machine not in MACHINES:
        return None
    column, architecture = MACHINES[machine]
    return b"".join(_program(column, architecture, pid, cuda, programs))


def _program(column: int, architecture: int, pid: int, cuda: bool, programs: bool) -> Iterator[bytes]:
    yield _step(LOAD, ARCHITECTURE)
    yield _step(JUMP_EQUAL, architecture, skip_if=1)
    yield _step(RETURN, KILL_PROCESS)
    yield _step(LOAD, NUMBER)
    yield _step(JUMP_AT_LEAST, X32_CALLS, skip_else=1)
    yield _fail(errno.EPERM)
    plain = [numbers[column] for name, numbers in DENIED.items() if not (programs and name in STARTING)]
    plain += [] if cuda else [MEMFD_CREATE[column]]
    for number in plain:
        if number is not None:
            yield _step(JUMP_EQUAL, number, skip_else=1)
            yield _fail(errno.EPERM)
    # glibc starts threads with clone3 and falls back to clone, whose flags can be seen.
    yield _step(JUMP_EQUAL, CLONE3[column], skip_else=1)
    yield _fail(errno.ENOSYS)
    if not programs:
        yield from _judge(CLONE[column], (0, JUMP_ANY_BIT, CLONE_THREAD))
    yield from _judge(KILL[column], (0, JUMP_EQUAL, pid))
    yield from _judge(TGKILL[column], (0, JUMP_EQUAL, pid))
    # Reading one's own limits is harmless; both halves of the pointer to new ones must be zero.
    own, low, high = (0, JUMP_EQUAL, 0), (2, JUMP_EQUAL, 0), (2.5, JUMP_EQUAL, 0)
    yield from _judge(PRLIMIT64[column], own, low, high)
    yield _step(JUMP_EQUAL, IOCTL[column], skip_else=4)
    yield _step(LOAD, _argument(1))
    yield _step(JUMP_EQUAL, TIOCSTI, skip_else=1)
    yield _fail(errno.EPERM)
    yield _step(RETURN, ALLOW)
    yield _step(RETURN, ALLOW)


def _judge(number: int, *conditions: tuple[float, int, int]) -> Iterator[bytes]:
    """Allow this call only where all conditions (argument, comparison, value) hold."""
    yield _step(JUMP_EQUAL, number, skip_else=3 * len(conditions) + 1)
    for argument, comparison, value in conditions:
        yield _step(LOAD, _argument(argument))
        yield _step(comparison, value, skip_if=1)
        yield _fail(errno.EPERM)
    yield _step(RETURN, ALLOW)


def _argument(index: float) -> int:
    """Where the low half of an argument lies in `struct seccomp_data`; index + 0.5 is the high half."""
    return 16 + int(8 * index)


def _fail(code: int) -> bytes:
    return _step(RETURN, FAIL | code)


def _step(operation: int, value: int, *, skip_if: int = 0, skip_else: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, skip_if, skip_else, value)
