"""The torch form of every operator in our table, against ONNX's own published node tests."""

import warnings
from collections import Counter
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from worker.engine.execute import Executor, to_numpy
from worker.engine.graph import freeze
from worker.engine.ops import RULES

# What ONNX's tests ask of these cases lies outside inference on numeric tensors.
EXCLUDED = {
    "training_dropout": "random numbers of the reference implementation",
    "batchnorm_epsilon_training_mode": "training mode: onnxruntime does not implement it in float32 for one node",
    "batchnorm_example_training_mode": "training mode: likewise",
}


@lru_cache
def cases() -> "dict[str, onnx.backend.test.case.test_case.TestCase]":
    import onnx.backend.test.case.node as published

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the published cases divide by zero on purpose
        collected = published.collect_testcases(None)
    wanted = {}
    for case in collected:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in RULES and nodes[0].domain == "":
            wanted[case.name] = case
    return wanted


def types(case: "onnx.backend.test.case.test_case.TestCase") -> set[int]:
    return {put.type.tensor_type.elem_type for put in (*case.model.graph.input, *case.model.graph.output)}


NUMERIC = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT64,
    onnx.TensorProto.INT32,
    onnx.TensorProto.BOOL,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT8,
}


def run_case(name: str) -> Executor:
    case = cases()[name]
    graph = freeze(ir.from_proto(case.model))
    executor = Executor(graph)
    for inputs, expected in case.data_sets:
        names = [put.name for put in case.model.graph.input]
        found = executor.run(dict(zip(names, map(np.asarray, inputs), strict=True)))
        for port, want in zip(graph.outputs, expected, strict=True):
            got = to_numpy(found[port.name])
            assert want.shape == got.shape, name
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=max(case.atol, 1e-6))
    return executor


def chosen() -> list[str]:
    return sorted(
        name for name, case in cases().items() if types(case) <= NUMERIC and not any(part in name for part in EXCLUDED)
    )


@pytest.mark.parametrize("name", chosen())
def test_published_node_test(name: str) -> None:
    run_case(name)


def test_most_published_cases_run_in_torch_and_every_operator_has_one() -> None:
    native: Counter[str] = Counter()
    for name in chosen():
        executor = run_case(name)
        if not executor._nodes:
            native[executor.graph.ops[0].key] += 1
    untested = set(RULES) - set(native)
    assert set() == untested
    assert sum(native.values()) >= 0.85 * len(chosen())


def test_the_oracle_fails_on_a_wrong_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.engine.ops import elementwise

    monkeypatch.setitem(RULES, "Relu", elementwise.unary(torch.abs))
    with pytest.raises(AssertionError, match="Mismatched elements"):
        run_case("test_relu")


def test_an_operator_without_a_torch_form_runs_in_onnxruntime() -> None:
    node = onnx.helper.make_node("HammingWindow", ["size"], ["y"])
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    executor = Executor(freeze(ir.from_proto(model)))
    found = to_numpy(executor.run({"size": np.array(5)})["y"])
    assert 5 == len(found)
    assert 1 == len(executor._nodes)
