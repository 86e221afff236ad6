"""The launcher: a process that has imported the libraries and forks one confined child for each order.

In, on the socket it inherits: the path of an order, with two descriptors (the child's results and its log). Out: the
child's pid, then how it ended; the child is only reaped once the worker has heard it, so that its number is not given
to anybody else while the worker may still want to kill it. The launcher itself never computes, holds no secret and no
other socket, and ends with the worker.

Usage: python -m worker.launcher PARENT_PID SOCKET_FD
"""

import contextlib
import fcntl
import gc
import json
import os
import random
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from schemas.errors import EspalierError, Failure
from worker.engine.memory import is_out_of_memory
from worker.orders import Line, Order, Work
from worker.sandbox import confine, die_with_parent, unconfined

RESULTS_FD = 3
FAILED = 3
MESSAGE_BYTES = 4096


def serve(work: Work, arguments: list[str]) -> None:
    """Fork a child that does `work` for every order that arrives, until the worker closes the socket."""
    die_with_parent(int(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # the children share these pages as long as the collector does not touch them
    with socket.socket(fileno=int(arguments[1])) as control:
        control.send(b"ready")
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
            except ConnectionResetError:
                return
            if not message:
                return
            _fork(control, work, Path(message.decode()), *descriptors)


def _fork(control: socket.socket, work: Work, order: Path, results: int, log: int) -> None:
    launcher = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(work, order, launcher, results, log)
    os.close(results)
    os.close(log)
    with contextlib.suppress(OSError):  # the child does the same; whoever is first
        os.setpgid(pid, pid)
    control.send(json.dumps({"pid": pid}).encode())
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    control.send(json.dumps({"signalled": ended.si_code != os.CLD_EXITED, "status": ended.si_status}).encode())
    control.recv(MESSAGE_BYTES)
    os.waitpid(pid, 0)


def _child(work: Work, path: Path, launcher: int, results: int, log: int) -> NoReturn:
    """The life of a child; nothing gets out of here."""
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die_with_parent(launcher)
        _keep_only(results, log)
        code = _obey(work, Order.model_validate_json(path.read_bytes()))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _keep_only(results: int, log: int) -> None:
    """Standard input is empty, both outputs are the log, one descriptor is for results; every other is closed."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    # Moved out of the way first: each may have one of the numbers that are about to be taken.
    nothing, log, results = (fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in (nothing, log, results))
    for source, target in ((nothing, 0), (log, 1), (log, 2), (results, RESULTS_FD)):
        os.dup2(source, target)
    os.closerange(RESULTS_FD + 1, max(os.sysconf("SC_OPEN_MAX"), 1 << 16))


def _obey(work: Work, order: Order) -> int:
    """Confine, then work. Exit code 0, or 3 where the job failed."""
    os.environ["TMPDIR"] = str(order.workdir)
    os.chdir(order.workdir)
    random.seed()
    plan = order.confinement()
    sandbox = unconfined(plan) if order.bounds.sandbox == "off" else confine(plan)
    _say(Line(confined=sandbox))
    try:
        if order.bounds.sandbox == "full" and sandbox.level != "full":
            raise EspalierError("sandbox_unavailable", f"the kernel lacks {', '.join(sandbox.missing)}")
        work(order.confined_to(sandbox.level), lambda progress: _say(Line(progress=progress)))
    except EspalierError as error:
        _say(Line(failure=error.failure))
        return FAILED
    except Exception as error:  # the edge of the process: whatever it was becomes a failure as data
        traceback.print_exc()
        _say(Line(failure=_failure(error)))
        return FAILED
    _say(Line(done=True))
    return 0


def _failure(error: Exception) -> Failure:
    text = " ".join(str(error).split())[:300]
    if is_out_of_memory(error):
        return EspalierError("job_out_of_memory", f"an allocation failed: {text or type(error).__name__}").failure
    return EspalierError("internal_error", f"{type(error).__name__}: {text}").failure


def _say(line: Line) -> None:
    text = line.model_dump_json(exclude_none=True).encode() + b"\n"
    while text:
        text = text[os.write(RESULTS_FD, text) :]


def main() -> None:
    """The launcher of the real worker."""
    from worker.perform import perform  # two seconds of imports, for which nobody need wait before this

    serve(perform, sys.argv[1:])


if __name__ == "__main__":
    main()
