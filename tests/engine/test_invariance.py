"""What must not matter to a criterion: in which order a layer's units stand, how much of a unit's size is before its
ReLU and how much behind it, and on which device it is computed. Whole jobs, with every criterion that ranks units."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from schemas.criteria import CRITERIA
from schemas.request import parse_options
from tests.engine.nets import ROW, Node, bn, feeds_for, gemm, layer, model, norm, save
from worker.engine.run import InputFile, Inputs, Limits, prune

SAMPLES = 200
UNITS = 12
# By these a unit's size counts, before the ReLU or as the factor of its normalisation.
SIZED = ("bn_scale", "fpgm", "karnin", "magnitude")
UNSIZED = ("apoz", "brute_force", "distinctiveness", "obs", "taylor1", "taylor2")
# The draw of `random` is by number; of a pair the later unit goes (test_criteria has the permutation of pairs).
NUMBERED = ("distinctiveness", "random")


def network(order: np.ndarray | None = None, scale: np.ndarray | None = None) -> onnx.ModelProto:
    """The same function whatever the order and the scale of its first layer's units."""
    nodes = [gemm("fc1", "x", "h"), norm("n1", "h", "n"), Node("Relu", ["n"], "a"), gemm("fc2", "a", "b"),
             Node("Relu", ["b"], "c"), gemm("fc3", "c", "y")]  # fmt: skip
    sizes = {**layer("fc1", UNITS, 12), **bn("n1", UNITS), **layer("fc2", 8, UNITS), **layer("fc3", 4, 8)}
    proto = model(nodes, sizes, ROW, ["y"])
    order = np.arange(UNITS) if order is None else order
    scale = np.ones(UNITS) if scale is None else scale
    held = {one.name: onnx.numpy_helper.to_array(one).astype(np.float64) for one in proto.graph.initializer}
    for name in ("fc1.weight", "fc1.bias", "n1.mean", "n1.scale"):  # half of it before, half in it
        held[name] = (held[name].T * np.sqrt(scale)).T
    held["n1.shift"] = held["n1.shift"] * scale
    held["fc2.weight"] = (held["fc2.weight"] / scale)[:, order]
    for name in ("fc1.weight", "fc1.bias", "n1.scale", "n1.shift", "n1.mean", "n1.var"):
        held[name] = held[name][order]
    for one in proto.graph.initializer:
        one.CopyFrom(onnx.numpy_helper.from_array(held[one.name].astype(np.float32), one.name))
    return proto


def as_input(path: Path) -> InputFile:
    content = path.read_bytes()
    return InputFile(path, sha256(content).hexdigest(), path.name, len(content))


def removed(folder: Path, proto: onnx.ModelProto, name: str, device: str = "cpu") -> tuple[int, ...]:
    """The units of the first layer that go."""
    folder.mkdir(parents=True)
    feeds = feeds_for(proto, SAMPLES)
    said = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    np.savez(folder / "data.npz", **feeds, labels=said.argmax(1))
    final = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer if len(one.dims) > 1}
    told = {f"e{epoch}/{key}": array * (0.7 + 0.3 * epoch) for epoch in (0, 1) for key, array in final.items()}
    np.savez(folder / "history.npz", **told)
    options = {
        "criterion": {"name": name, **({"of": "units"} if name == "karnin" else {})},
        "amount": {"remove_units": 0.5},
        "share_out": "uniform",
        "compensation": "none",
        "scope": {"include": ["fc1"]},
        "device": device,
    }
    history = as_input(folder / "history.npz") if name == "karnin" else None
    inputs = Inputs(as_input(save(proto, folder)), {}, as_input(folder / "data.npz"), None, history)
    report = prune(parse_options(options), inputs, folder, Limits(1, 1 << 30), lambda _: None)
    [group] = [group for group in report.groups if group.name == "fc1"]
    return tuple(sorted(group.removed))


def test_every_criterion_of_units_is_here() -> None:
    of_units = {name for name, kind in CRITERIA.items() if name == "karnin" or not kind().prunes_weights()}
    assert of_units == {*SIZED, *UNSIZED, "random"}


@pytest.mark.parametrize("name", [name for name in (*SIZED, *UNSIZED) if name not in NUMBERED])
def test_the_order_of_units_does_not_matter(name: str, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(UNITS)
    want = removed(tmp_path / "a", network(), name)
    found = removed(tmp_path / "b", network(order), name)
    assert want == tuple(sorted(int(order[unit]) for unit in found))
    assert want != found


@pytest.mark.parametrize("name", [*SIZED, *UNSIZED])
def test_only_criteria_of_weights_see_what_a_relu_absorbs(name: str, tmp_path: Path) -> None:
    scale = np.exp(np.random.default_rng(2).uniform(-2, 2, UNITS))
    same = removed(tmp_path / "a", network(), name) == removed(tmp_path / "b", network(scale=scale), name)
    assert (name in UNSIZED) == same


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", [*SIZED, *UNSIZED, "random"])
def test_the_device_does_not_matter(name: str, tmp_path: Path) -> None:
    here, there = (removed(tmp_path / device, network(), name, device) for device in ("cpu", "cuda"))
    assert here == there
