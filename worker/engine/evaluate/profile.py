"""Each operator's part of a model's latency, measured once in onnxruntime.

In: a model's file, one sample, a folder for onnxruntime's notes. Out: milliseconds by node name; they add up to what
was measured without taking notes. Operators are not joined for this, so that each has a time of its own.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from worker.engine.data import Samples
from worker.engine.evaluate.runtime import QUIET, latency_ms, session

RUNS = 20


def milliseconds_by_node(model: Path, sample: Samples, folder: Path) -> Mapping[str, float]:
    """The measured latency, shared out among the nodes as onnxruntime's own notes share theirs."""
    options = ort.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    noted = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        noted.run(None, dict(sample.inputs))
    notes = Path(noted.end_profiling())
    found: dict[str, float] = {}
    for event in json.loads(notes.read_bytes()):
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            name = str(event["name"]).removesuffix("_kernel_time")
            found[name] = found.get(name, 0.0) + float(event["dur"])
    notes.unlink()
    total = sum(found.values())
    whole = latency_ms(session(model), sample)
    return {name: whole * part / total for name, part in found.items()} if total else {}
