"""How much memory a large model takes to prune: generated, run in a process of its own, its peak measured.

    python -m benchmarks.large [--gigabytes 1.5] [--external]

Prints the model's size, the highest resident memory of the engine's process, and their ratio. The process before the
model (Python, torch, onnxruntime) is counted too; `base` says how much that is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH = 4096
REQUEST = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}, "device": "cpu"}

Weights = dict[str, tuple[int, ...]]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.5, help="size of the model (default 1.5)")
    parser.add_argument("--external", action="store_true", help="weights in a file of their own")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="espalier-large-") as name:
        folder = Path(name)
        size = build(folder, round(given.gigabytes * 1e9), external=given.external)
        base = peak([sys.executable, "-c", "import worker.engine.run"])[0]
        command = [sys.executable, "-m", "worker.engine", "--model", str(folder / "net.onnx")]
        command += ["--external", f"net.bin={folder / 'net.bin'}"] if given.external else []
        command += ["--options", json.dumps(REQUEST), "--workdir", str(folder / "work"), "--threads", "2"]
        start = time.perf_counter()
        most, last = peak(command)
        seconds = time.perf_counter() - start
    print(f"model {size / 1e9:.2f} GB, base {base / 1e9:.2f} GB, peak {most / 1e9:.2f} GB, {most / size:.2f} times")
    print(f"{seconds:.0f} s; {last[:300]}")
    return 0 if '"done"' in last else 1


def build(folder: Path, wanted: int, *, external: bool) -> int:
    """A chain of square layers of about that many bytes."""
    layers = max(round(wanted / (4 * WIDTH * WIDTH)), 2)
    shapes: Weights = {}
    nodes = []
    value = "x"
    for number in range(layers):
        inputs = 64 if number == 0 else WIDTH
        outputs = 64 if number == layers - 1 else WIDTH
        shapes[f"w{number}"] = inputs, outputs
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"h{number}"]))
        nodes.append(helper.make_node("Relu", [f"h{number}"], [value := f"a{number}"]))
    nodes[-1].output[0] = "y"
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "large", ports[:1], ports[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    rng = np.random.default_rng(0)
    with (folder / "net.bin").open("wb") as file:
        for name, shape in shapes.items():
            values = (rng.standard_normal(shape, np.float32) / 40).tobytes()
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
    return sum(path.stat().st_size for path in folder.iterdir())


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
