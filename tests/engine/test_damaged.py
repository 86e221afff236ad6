"""Damaged models: whatever bytes, names, types or attributes have become, a job prunes the model or refuses it."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from schemas.errors import EspalierError
from schemas.inspect_request import parse_inspection
from schemas.request import parse_options
from tests.engine.nets import cnn, feeds_for
from tests.engine.nets_layers import tied_embedding
from tests.engine.nets_layout import attention
from tests.engine.test_run import HALF, as_input
from worker.engine import admission, blame
from worker.engine.inspect import inspect
from worker.engine.run import Inputs, Limits, prune

NETWORKS: Sequence[Callable[[], onnx.ModelProto]] = (cnn, tied_embedding, attention)
NUMBERS = (0, -1, 2, 7, 255, 2**31, -(2**63), 2**63 - 1)
OPERATORS = ("Add", "Conv", "Reshape", "Softmax", "Split", "LSTM", "Einsum", "Loop", "Nobody", "Cast", "Pad", "TopK")
EACH = 45
OURS = ("internal_error", "exactness_failed", "artifact_rejected")


def bytes_changed(proto: onnx.ModelProto, chance: random.Random) -> bytes:
    data = bytearray(proto.SerializeToString())
    for _ in range(chance.choice((1, 2, 8))):
        place = chance.randrange(min(len(data), chance.choice((64, 500, len(data)))))
        data[place : place + chance.randrange(2)] = chance.randbytes(chance.randrange(3))
    return bytes(data)


def meaning_changed(proto: onnx.ModelProto, chance: random.Random) -> bytes:
    """Valid as a message, whatever it says."""
    node, tensor = chance.choice(proto.graph.node), chance.choice(proto.graph.initializer)
    port = chance.choice([*proto.graph.input, *proto.graph.output]).type.tensor_type
    names = [name for one in proto.graph.node for name in (*one.input, *one.output)]
    numbers = [attr for one in proto.graph.node for attr in one.attribute if attr.ints or attr.type == attr.INT]
    attr = chance.choice(numbers)
    match chance.randrange(8):
        case 0:
            node.op_type = chance.choice(OPERATORS)
        case 1:
            node.input[chance.randrange(len(node.input))] = chance.choice([*names, "", "nowhere"])
        case 2:
            tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]
        case 3:
            tensor.data_type = chance.randrange(30)
        case 4:
            attr.i = chance.choice(NUMBERS)
            attr.ints[:] = [chance.choice(NUMBERS) for _ in range(chance.randrange(5))] if attr.ints else []
        case 5:
            tensor.dims[:] = [chance.choice(NUMBERS[:4]) for _ in range(chance.randrange(4))]
        case 6:
            port.shape.dim.add().dim_value = chance.choice(NUMBERS)
        case _:
            del proto.graph.node[chance.randrange(len(proto.graph.node))]
    return proto.SerializeToString()


def outcome(folder: Path, build: Callable[[], onnx.ModelProto], number: int) -> str:
    """The code of the refusal, "ok", or the name of what escaped."""
    chance = random.Random(number)  # repeatable
    change = chance.choice((bytes_changed, meaning_changed))
    (folder / "model.onnx").write_bytes(change(build(), chance))
    np.savez(folder / "data.npz", **feeds_for(build(), 12))
    inputs = Inputs(as_input(folder / "model.onnx"), {}, as_input(folder / "data.npz"), None)
    try:
        if chance.random() < 0.5:
            inspect(parse_inspection({}), inputs, folder, Limits(1, 1 << 28), lambda _: None)
        else:
            prune(parse_options(HALF), inputs, folder, Limits(1, 1 << 28), lambda _: None)
    except EspalierError as error:
        return error.code
    except Exception as error:
        return type(error).__name__
    return "ok"


def outcomes(folder: Path, build: Callable[[], onnx.ModelProto]) -> set[str]:
    return {outcome(folder, build, number) for number in range(EACH)}


def escaped(found: set[str]) -> set[str]:
    return {one for one in found if one in OURS or one[0].isupper()}


@pytest.mark.parametrize("build", NETWORKS)
def test_a_damaged_model_is_pruned_or_refused(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    found = outcomes(tmp_path, build)
    assert set() == escaped(found)
    assert {"ok", "model_invalid"} <= found


def test_without_the_checks_something_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_amiss", lambda _: "")
    monkeypatch.setattr(blame, "refuse_what_does_not_run", lambda *_: None)
    assert escaped(outcomes(tmp_path, cnn))


def test_a_fault_of_ours_is_not_the_model_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("ours")

    np.savez(tmp_path / "data.npz", **feeds_for(cnn(), 12))
    onnx.save(cnn(), tmp_path / "model.onnx")
    inputs = Inputs(as_input(tmp_path / "model.onnx"), {}, as_input(tmp_path / "data.npz"), None)
    monkeypatch.setattr("worker.engine.prepare.analyse", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        prune(parse_options(HALF), inputs, tmp_path, Limits(1, 1 << 28), lambda _: None)
