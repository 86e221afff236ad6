"""A program that confines itself and then trains in torch on two threads and runs a session of onnxruntime.

Usage: learns.py WORK. It forks first, as the launcher does, so that the libraries are imported before the confinement.
"""

import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

from worker.sandbox import Confinement, confine


def compute(work: Path) -> None:
    sandbox = confine(Confinement((), work, cpu_seconds=60, memory_bytes=2**32, file_bytes=2**24))
    assert "full" == sandbox.level, sandbox
    torch.set_num_threads(2)
    layer = torch.nn.Linear(256, 256)
    torch.nn.functional.relu(layer(torch.randn(512, 256))).square().mean().backward()
    assert layer.weight.grad is not None
    product = helper.make_node("MatMul", ["x", "x"], ["y"])
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([product], "g", sides[:1], sides[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    (work / "m.onnx").write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(work / "m.onnx"), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.eye(64, dtype=np.float32)})
    assert 64 == y.sum()
    filtered = [(task / "status").read_text() for task in Path("/proc/self/task").iterdir()]
    assert len(filtered) >= 2
    assert all("Seccomp:\t2" in text and "NoNewPrivs:\t1" in text for text in filtered)
    print("learnt", flush=True)


if __name__ == "__main__":
    if (pid := os.fork()) == 0:
        try:
            compute(Path(sys.argv[1]))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
