"""Every published node test of ONNX (`onnx.backend.test`), through the executor.

A case passes natively where torch computes all of it, else by onnxruntime or ONNX's reference implementation. Cases of
several nodes are operators spelt out as functions. What does not pass is named here, with its reason; `-s` prints the
list of passes.
"""

import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import onnx
import onnx.backend.test.case.node as published
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx.backend.test.case.test_case import TestCase

from schemas.errors import EspalierError
from worker.engine.execute import Executor, to_numpy
from worker.engine.graph import Array, freeze
from worker.engine.ops import RULES, elementwise

By = Literal["torch", "onnxruntime", "reference"]

RANDOM = "draws random numbers: onnxruntime's generator is not the reference's"
TRAINING = "training mode"
DEVIATES = "onnxruntime, which is what users run, gives other numbers than the reference"
EIGHT_BITS = "onnxruntime saturates where the reference gives NaN (float8 in the middle of a function)"
FAILING = {
    "test_bernoulli": RANDOM,
    "test_bernoulli_double": RANDOM,
    "test_bernoulli_double_expanded": RANDOM,
    "test_bernoulli_expanded": RANDOM,
    "test_bernoulli_seed": RANDOM,
    "test_bernoulli_seed_expanded": RANDOM,
    "test_castlike_FLOAT16_to_FLOAT8E4M3FN_expanded": EIGHT_BITS,
    "test_castlike_FLOAT_to_FLOAT8E4M3FN_expanded": EIGHT_BITS,
    "test_castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FN_expanded": EIGHT_BITS,
    "test_castlike_no_saturate_FLOAT_to_FLOAT8E4M3FN_expanded": EIGHT_BITS,
    "test_maxunpool_export_with_output_shape": DEVIATES,
    "test_resize_downsample_scales_cubic_align_corners": DEVIATES,
    "test_resize_downsample_scales_linear_align_corners": DEVIATES,
    "test_resize_upsample_sizes_nearest_ceil_half_pixel": DEVIATES,
    "test_training_dropout": TRAINING,
    "test_training_dropout_default": TRAINING,
    "test_training_dropout_default_mask": TRAINING,
    "test_training_dropout_mask": TRAINING,
}
HALF = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}  # computed in single, as reported in proofs


@dataclass(frozen=True)
class Outcome:
    operator: str  # "" for a case of several nodes
    by: By
    failed: bool


def excluded(case: TestCase) -> str:
    """Why a case is not asked for; "" where it is."""
    if "training_mode" in case.name or any(node.domain.endswith("training") for node in case.model.graph.node):
        return "training"
    for port in (*case.model.graph.input, *case.model.graph.output):
        if port.type.WhichOneof("value") != "tensor_type":
            return "sequence"
        if port.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            return "string"
    return ""


@lru_cache
def cases() -> dict[str, TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the published cases divide by zero on purpose
        return {case.name: case for case in published.collect_testcases(None)}


def array(given: object) -> Array:
    return onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.asarray(given)


def run_case(name: str) -> Executor:
    case = cases()[name]
    executor = Executor(freeze(ir.from_proto(case.model)))
    ports = (*case.model.graph.input, *case.model.graph.output)
    slack = 2e-2 if any(port.type.tensor_type.elem_type in HALF for port in ports) else 0.0
    for inputs, expected in case.data_sets:
        names = [put.name for put in case.model.graph.input]
        found = executor.run(dict(zip(names, map(array, inputs), strict=True)))
        for port, wanted in zip(executor.graph.outputs, map(array, expected), strict=True):
            compare(to_numpy(found[port.name]), wanted, max(case.rtol, slack), max(case.atol, slack), name)
    return executor


def compare(got: Array, want: Array, rtol: float, atol: float, name: str) -> None:
    assert want.shape == got.shape, name
    if want.dtype.kind not in "biu":  # float8 and its like too
        got, want = got.astype(np.float64), want.astype(np.float64)
        atol = max(atol, 1e-5 * float(np.abs(want[np.isfinite(want)]).max(initial=0.1)))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def by_what(executor: Executor) -> By:
    if not executor._nodes:
        return "torch"
    sessions = all(isinstance(one, ort.InferenceSession) for one in executor._nodes.values())
    return "onnxruntime" if sessions else "reference"


@lru_cache
def outcomes() -> dict[str, Outcome]:
    found = {}
    for name, case in cases().items():
        if excluded(case):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # likewise, in the reference implementation
            try:
                executor = run_case(name)
            except (AssertionError, EspalierError):
                found[name] = Outcome("", "torch", failed=True)
                continue
        ops = executor.graph.ops
        found[name] = Outcome(ops[0].key if len(ops) == 1 else "", by_what(executor), failed=False)
    return found


def test_published_cases_pass_but_for_those_that_are_named() -> None:
    failing = {name for name, one in outcomes().items() if one.failed}
    assert set(FAILING) == failing
    assert len(failing) <= 0.05 * len(outcomes())


@pytest.mark.parametrize("key", sorted(key for key in RULES if "::" not in key))
def test_an_operator_of_our_table_passes_in_torch(key: str) -> None:
    def asked(case: TestCase) -> bool:
        nodes = case.model.graph.node
        return len(nodes) == 1 and (nodes[0].domain, nodes[0].op_type) == ("", key) and not excluded(case)

    own = [name for name, case in cases().items() if asked(case) and name not in FAILING]
    assert "torch" in {by_what(run_case(name)) for name in own}


def test_the_list_of_passes() -> None:
    """At least 110 operators pass natively."""
    native: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    for name, one in sorted(outcomes().items()):
        ways[FAILING.get(name, one.by)] += 1
        if not one.failed and one.by == "torch" and one.operator:
            native[one.operator] += 1
        print(f"{name:70}{FAILING.get(name, one.by)}")
    left_out = Counter(excluded(case) for case in cases().values())
    print(f"{len(outcomes())} cases, {len(native)} operators native: {dict(ways)}; not asked for: {dict(left_out)}")
    assert len(native) >= 110
    assert ways["torch"] + ways["onnxruntime"] >= 0.8 * len(outcomes())


def test_the_oracle_fails_on_a_wrong_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Relu", elementwise.unary(torch.abs))
    with pytest.raises(AssertionError, match="Mismatched elements"):
        run_case("test_relu")


def alone(node: onnx.NodeProto, feeds: dict[str, Array], opset: int = 17) -> tuple[Executor, Array]:
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(one.dtype), one.shape)
        for name, one in feeds.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(node.output[0])]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    executor = Executor(freeze(ir.from_proto(model)))
    return executor, to_numpy(executor.run(feeds)[node.output[0]])


def test_an_operator_without_a_torch_form_runs_in_onnxruntime() -> None:
    node = onnx.helper.make_node("HammingWindow", ["size"], ["y"])
    executor, found = alone(node, {"size": np.array(5)})
    assert 5 == len(found)
    assert "onnxruntime" == by_what(executor)


def test_numbers_that_torch_cannot_add_are_added_elsewhere() -> None:
    executor, found = alone(onnx.helper.make_node("Add", ["a", "a"], ["y"]), {"a": np.array([1, 70000], np.uint32)})
    assert [2, 140000] == found.tolist()
    assert "onnxruntime" == by_what(executor)


def test_what_onnxruntime_does_not_know_runs_in_the_reference_implementation() -> None:
    node = onnx.helper.make_node("Min", ["a", "b"], ["y"])
    executor, found = alone(node, {"a": np.array([1, 9], np.uint16), "b": np.array([5, 5], np.uint16)})
    assert [1, 5] == found.tolist()
    assert "reference" == by_what(executor)


def test_what_nothing_can_run_names_the_node_and_what_onnxruntime_says() -> None:
    node = onnx.helper.make_node("MaxUnpool", ["x", "i"], ["y"], name="odd", kernel_shape=[2, 2])
    with pytest.raises(EspalierError, match=r"odd.*ONNXRuntimeError"):
        alone(node, {"x": np.zeros((1, 1), np.float32), "i": np.zeros((3, 1), np.int64)})
