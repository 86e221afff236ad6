"""How much memory a large model takes, job by job: generated, run in processes of their own, their peaks measured.

    python -m benchmarks.large [--gigabytes 1.5] [--external] [--network chain|convolutions] [--width 4096]
                               [--jobs default,merge] [--options JSON] [--calibration 64] [--evaluation 256] [--stages]

For each job the highest resident memory of the engine's process, in gigabytes and in sizes of the model, and the stage
that reached it. What the process takes before the model (Python, torch, onnxruntime) is counted too; `base` says how
much that is. Without --jobs and --options all jobs run, one after the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH = 4096
IMAGE = 4  # rows and columns of what the convolutions see
KERNEL = 3
PORT = 64  # what goes in and comes out
REQUEST = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}, "device": "cpu"}
RESET_PEAK = "5"  # what the kernel wants to hear

Weights = dict[str, tuple[int, ...]]
Options = Mapping[str, object]


@dataclass(frozen=True)
class Job:
    """Options, and which data the job gets."""

    options: Options
    calibration: bool = True
    evaluation: bool = False


HALF = {"amount": {"remove_units": 0.5}}
JOBS: Mapping[str, Job] = {
    "magnitude": Job({**HALF, "criterion": {"name": "magnitude"}}, calibration=False),
    "judged": Job({**HALF, "criterion": {"name": "magnitude"}}, evaluation=True),
    "nothing": Job({"criterion": {"name": "magnitude"}, "amount": {"remove_units": 1e-9}}, evaluation=True),
    "little": Job({"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.1}}, evaluation=True),
    "default": Job({}, evaluation=True),
    "default_unjudged": Job({"amount": {"keep_parameters": 0.5}}),
    "merge": Job({**HALF, "criterion": {"name": "distinctiveness"}, "compensation": "merge"}),
    "project": Job({**HALF, "criterion": {"name": "magnitude"}, "compensation": "project"}),
    "rebuilt": Job({**HALF, "criterion": {"name": "magnitude"}, "compensation": "reconstruct"}),
    "taylor": Job({**HALF, "criterion": {"name": "taylor2"}}),
    "quantize": Job({**HALF, "criterion": {"name": "magnitude"}, "quantize": {}}),
    "distill": Job({**HALF, "criterion": {"name": "magnitude"}, "distill": {"epochs": 1}}),
    "weights": Job({"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}}),
    "wanda": Job({"criterion": {"name": "wanda"}, "amount": {"remove_weights": 0.5}}),
    "sparsegpt": Job({"criterion": {"name": "sparsegpt"}, "amount": {"remove_weights": 0.5}}),
}


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    jobs = {name: JOBS[name] for name in (given.jobs.split(",") if given.jobs else [] if given.options else JOBS)}
    if given.options:
        jobs["options"] = Job(json.loads(given.options), evaluation=given.evaluation > 0)
    with tempfile.TemporaryDirectory(prefix="espalier-large-") as name:
        folder = Path(name)
        wanted = round(given.gigabytes * 1e9)
        size = build(folder, wanted, external=given.external, network=given.network, width=given.width)
        rows = {"calibration": given.calibration, "evaluation": given.evaluation}
        for place, (role, count) in enumerate(rows.items()):
            np.save(folder / f"{role}.npy", samples(given.network, max(count, 1), place))
        base = peak([sys.executable, "-c", "import worker.engine.run"])[0]
        print(f"model {size / 1e9:.2f} GB, base {base / 1e9:.2f} GB, {rows}", flush=True)
        print(f"{'job':<18}{'GB':>7}{'times':>7}{'seconds':>9}  highest in", flush=True)
        failed = [name for name, job in jobs.items() if not run(name, job, folder, rows, size, given)]
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.5, help="size of the model (default 1.5)")
    parser.add_argument("--external", action="store_true", help="weights in a file of their own")
    parser.add_argument("--network", choices=("chain", "convolutions"), default="chain", help="what it is made of")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"units of each layer (default {WIDTH})")
    parser.add_argument("--jobs", default="", help=f"some of {', '.join(JOBS)}; default all")
    parser.add_argument("--options", default="", help="a job of your own: JSON")
    parser.add_argument("--calibration", type=int, default=64, help="rows (default 64)")
    parser.add_argument("--evaluation", type=int, default=256, help="rows, for jobs that are judged (default 256)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stages", action="store_true", help="print the peak of every stage")
    return parser


def run(name: str, job: Job, folder: Path, rows: Mapping[str, int], size: int, given: argparse.Namespace) -> bool:
    """One job, and its line of the table."""
    options = {"device": "cpu", **job.options}
    command = [sys.executable, "-m", "worker.engine", "--model", str(folder / "net.onnx")]
    command += ["--external", f"net.bin={folder / 'net.bin'}"] if given.external else []
    command += ["--options", json.dumps(options), "--workdir", str(folder / "work"), "--threads", f"{given.threads}"]
    for role, wanted in (("calibration", job.calibration), ("evaluation", job.evaluation)):
        command += [f"--{role}", str(folder / f"{role}.npy")] if wanted and rows[role] else []
    start = time.perf_counter()
    stages, last = watched(command)
    most = max(stages.values())
    where = max(stages, key=lambda stage: stages[stage])
    seconds = time.perf_counter() - start
    print(f"{name:<18}{most / 1e9:>7.2f}{most / size:>7.2f}{seconds:>9.0f}  {where}", flush=True)
    if given.stages:
        print("    " + ", ".join(f"{stage} {peak / size:.2f}" for stage, peak in stages.items()), flush=True)
    if '"done"' not in last:
        print(f"    {last[:300]}", flush=True)
    return '"done"' in last


def build(folder: Path, wanted: int, *, external: bool, network: str = "chain", width: int | None = None) -> int:
    """Layers of one width, of about so many bytes."""
    width = width or WIDTH
    taps = (KERNEL, KERNEL) if network == "convolutions" else ()
    layers = max(round(wanted / (4 * width * width * int(np.prod(taps)))), 3)
    shapes: Weights = {}
    nodes = []
    value = "x"
    for number in range(layers):
        inputs = PORT if number == 0 else width
        outputs = PORT if number == layers - 1 else width
        shapes[f"w{number}"] = (outputs, inputs, *taps) if taps else (inputs, outputs)
        node = helper.make_node("Conv" if taps else "MatMul", [value, f"w{number}"], [f"h{number}"])
        if taps:
            node.attribute.append(helper.make_attribute("pads", [KERNEL // 2] * 4))
        nodes.append(node)
        nodes.append(helper.make_node("Relu", [f"h{number}"], [value := f"a{number}"]))
    nodes[-1].output[0] = "y"
    dims = ["n", *samples(network, 1, 0).shape[1:]]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "large", ports[:1], ports[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    _write(model, shapes, folder, external=external)
    return sum(path.stat().st_size for path in folder.iterdir())


def _write(model: onnx.ModelProto, shapes: Weights, folder: Path, *, external: bool) -> None:
    """The model with weights that keep the size of what goes through them."""
    rng = np.random.default_rng(0)
    with (folder / "net.bin").open("wb") as file:
        for name, shape in shapes.items():
            inputs = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
            values = (rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / inputs))).tobytes()
            tensor = model.graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT)
            if external:
                tensor.data_location = TensorProto.EXTERNAL
                entries = {"location": "net.bin", "offset": file.tell(), "length": len(values)}
                for key, entry in entries.items():
                    tensor.external_data.add(key=key, value=str(entry))
                file.write(values)
            else:
                tensor.raw_data = values
    onnx.save(model, folder / "net.onnx")


def samples(network: str, count: int, seed: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Noise of the shape that the network reads."""
    shape = (PORT, IMAGE, IMAGE) if network == "convolutions" else (PORT,)
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32)


def watched(command: list[str]) -> tuple[dict[str, int], str]:
    """The highest resident memory of a process that tells its stages, stage by stage, and its last line. The kernel's
    mark is set back at the beginning of each."""
    stages: dict[str, int] = {}
    stage, line = "start", ""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), *sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as job:
        assert job.stdout is not None
        for line in job.stdout:
            told = json.loads(line).get("progress", {}).get("stage")
            stages[stage] = max(stages.get(stage, 0), _high_mark(job.pid))
            if told and told != stage:
                stage = told
                Path(f"/proc/{job.pid}/clear_refs").write_text(RESET_PEAK)
    return stages, line


def _high_mark(pid: int) -> int:
    """What the kernel has noted, in bytes; nothing once the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def peak(command: list[str]) -> tuple[int, str]:
    """The highest resident memory of a process, and its last line."""
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True);"
        "print((done.stdout.strip() or done.stderr.strip() or 'nothing').splitlines()[-1]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    told = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    *_, last, kibibytes = told.stdout.splitlines()
    return int(kibibytes) * 1024, last


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
