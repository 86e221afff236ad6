"""A launcher whose jobs do what the first line of their model file says. It needs neither torch nor the engine.

Usage, as `worker.launcher`: python tests/worker/jobs.py PARENT_PID SOCKET_FD
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from schemas.device import Devices
from schemas.errors import EspalierError
from schemas.job import Progress, Verdict
from schemas.report import Coverage, DataUse, Exactness, Provenance, Report, Side
from schemas.request import PruneRequest
from worker.launcher import serve
from worker.orders import Emit, Order

MEBI = 1024 * 1024


def work(order: Order, emit: Emit) -> None:
    if order.kind == "verify":
        assert order.artifact is not None
        if b"hang the verifier" in order.artifact.read_bytes():
            time.sleep(600)
        if b"invalid" in order.artifact.read_bytes():
            raise EspalierError("artifact_rejected", "it says so itself", where="artifact.onnx")
        return
    assert order.sources is not None
    what, _, how = order.sources.model.path.read_text().split("\n")[0].partition(" ")
    emit(Progress(stage="load", fraction=0.1, message=what))
    DOINGS[what](order, emit, how)


def prune(order: Order, emit: Emit, how: str) -> None:
    emit(Progress(stage="cut", fraction=0.5))
    artifact = f"pruned {how}".encode()
    Path("artifact.onnx").write_bytes(artifact)
    Path("report.json").write_text(report(hashlib.sha256(artifact).hexdigest()).model_dump_json(by_alias=True))
    Path("report.html").write_text("<p>report")
    Path("report.md").write_text("report")


def sleep(order: Order, emit: Emit, how: str) -> None:
    """Sleep in small steps, so that a stopped and continued process does not notice."""
    steps = int(float(how) * 20)
    for step in range(steps):
        emit(Progress(stage="observe", fraction=0.1 + 0.4 * step / steps))
        time.sleep(0.05)
    prune(order, emit, "after a sleep")


def tell(order: Order, emit: Emit, how: str) -> None:
    for stage in ("data", "analyse", "observe", "select"):
        for step in range(20):
            emit(Progress(stage=stage, fraction=0.2, message=str(step)))
    prune(order, emit, how)


def crash(order: Order, emit: Emit, how: str) -> None:
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.Signals[how])
    time.sleep(60)


def allocate(order: Order, emit: Emit, how: str) -> None:
    held = []
    for _ in range(int(how)):
        held.append(b"x" * MEBI)
        time.sleep(0.001)
    time.sleep(60)


def grab(order: Order, emit: Emit, how: str) -> None:
    """Ask for memory without touching it: the kernel grants addresses only."""
    held = bytes(int(how) * MEBI)
    time.sleep(60)
    del held


def shout(order: Order, emit: Emit, how: str) -> None:
    for _ in range(int(how)):
        sys.stdout.write("all work and no play\n" * 50_000)
    prune(order, emit, how)


def threads(order: Order, emit: Emit, how: str) -> None:
    for _ in range(int(how)):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    time.sleep(600)


def spin(order: Order, emit: Emit, how: str) -> None:
    while True:
        pass


def refuse(order: Order, emit: Emit, how: str) -> None:
    raise EspalierError(how, "as it was told to", where="model")


def stumble(order: Order, emit: Emit, how: str) -> None:
    raise ZeroDivisionError(how)


def leave(order: Order, emit: Emit, how: str) -> None:
    os._exit(int(how))


def babble(order: Order, emit: Emit, how: str) -> None:
    """Say on the private pipe what no job says."""
    os.write(3, how.encode() + b"\n")
    prune(order, emit, how)


def kill_launcher(order: Order, emit: Emit, how: str) -> None:
    """Only an unconfined job can."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def spoil(order: Order, emit: Emit, how: str) -> None:
    """Leave results that do not hold."""
    prune(order, emit, how)
    spoils = {
        "no artifact": lambda: Path("artifact.onnx").unlink(),
        "empty artifact": lambda: Path("artifact.onnx").write_bytes(b""),
        "other artifact": lambda: Path("artifact.onnx").write_bytes(b"another"),
        "no weights": lambda: Path("report.json").write_text(
            report(
                hashlib.sha256(f"pruned {how}".encode()).hexdigest(), {"weights-0123456789abcdef.bin": "0" * 64}
            ).model_dump_json(by_alias=True)
        ),
        "bad report": lambda: Path("report.json").write_text("{}"),
        "no page": lambda: Path("report.html").unlink(),
        "a folder": lambda: (Path("report.md").unlink(), Path("report.md").mkdir()),
        "a link": lambda: (Path("report.md").unlink(), Path("report.md").symlink_to("/etc/passwd")),
        "a second name": lambda: (Path("report.md").unlink(), os.link("artifact.onnx", "report.md")),
    }
    spoils[how]()


def list_files(order: Order, emit: Emit, how: str) -> None:
    """Leave further files, each with its own name as its content, and a list that says `how`."""
    prune(order, emit, how)
    names = json.loads(how)
    for name in names:
        if "/" not in name and name not in ("missing.csv", "artifact.onnx"):
            Path(name).write_text(name)
    if "linked.csv" in names:
        Path("linked.csv").unlink()
        Path("linked.csv").symlink_to("/etc/passwd")
    Path("files.json").write_text(json.dumps({"files": names}))


def spy(order: Order, emit: Emit, how: str) -> None:
    """Put what can be seen of the worker's secrets and neighbours into the artifact's report page."""
    prune(order, emit, how)
    descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    seen = {name for name in os.environ if name.startswith(("ESPALIER", "AWS"))}
    try:
        neighbours = str(list(Path("..").iterdir()))
    except PermissionError:
        neighbours = "refused"
    Path("report.md").write_text(f"{sorted(seen)} {max(descriptors)} {neighbours} {Path.cwd()}")


DOINGS = {
    "prune": prune,
    "sleep": sleep,
    "tell": tell,
    "crash": crash,
    "allocate": allocate,
    "grab": grab,
    "shout": shout,
    "threads": threads,
    "spin": spin,
    "refuse": refuse,
    "stumble": stumble,
    "leave": leave,
    "babble": babble,
    "kill-launcher": kill_launcher,
    "spoil": spoil,
    "list": list_files,
    "spy": spy,
}


def report(artifact_sha256: str, weights: dict[str, str] | None = None) -> Report:
    """The smallest report that fits the schema."""
    side = Side(
        parameters=1,
        nonzero_parameters=1,
        macs=1,
        file_bytes=1,
        gzip_bytes=1,
        flash_bytes=1,
        peak_ram_bytes=1,
        latency_ms=1.0,
        accuracy=None,
    )
    return Report(
        devices=Devices(target=None, profiles=()),
        options=PruneRequest(),
        verdict=Verdict(met=True),
        before=side,
        after=side,
        exactness=Exactness(
            max_relative_difference=0.0, tolerance=1e-4, passed=True, mask_has_effect=True, samples=1, outputs=("y",)
        ),
        layers=(),
        groups=(),
        refusals=(),
        coverage=Coverage(parameters=1, prunable_parameters=1, groups=1, units=1),
        data=DataUse(
            calibration_samples=1,
            fit_samples=1,
            held_back_samples=0,
            evaluation_samples=0,
            duplicates_dropped=0,
            shared_dropped=0,
            labels=False,
            how="",
        ),
        timings=(),
        provenance=Provenance(
            model_sha256="",
            calibration_sha256=None,
            evaluation_sha256=None,
            artifact_sha256=artifact_sha256,
            artifact_external_sha256=weights or {},
            seed=0,
            device="cpu",
            threads=1,
            versions={},
        ),
    )


if __name__ == "__main__":
    serve(work, sys.argv[1:])
