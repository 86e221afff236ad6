"""A failing program becomes a smaller one that fails in the same way, and a text that says what it is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from tests.fuzz.forms import Array
from tests.fuzz.generate import BATCHES, Program, session, valid
from tests.fuzz.oracle import Failure, judge


def values_of(program: Program) -> dict[str, Array]:
    """Every value of the program in one run."""
    made = [name for node in program.nodes for name in node.output if name and name != program.output]
    names = [program.output, *made]
    found = session(program.build(made)).run(names, dict(program.inputs))
    return {**program.inputs, **dict(zip(names, map(np.asarray, found), strict=True))}


def smaller(program: Program) -> Iterator[Program]:
    """Simpler candidates, the boldest first: cut off the end, cut off the start, leave a node out."""
    values = values_of(program)
    for node in program.nodes[:-1]:
        for name in node.output:
            if name and values[name].dtype == np.float32:
                yield replace(program, output=name).pruned()
    for node in reversed(program.nodes):
        fresh = {name: values[name] for name in node.output if name}
        batch = BATCHES[0] if program.open_batch else 1
        if all(array.ndim and array.shape[0] == batch for array in fresh.values()):
            rest = tuple(one for one in program.nodes if one is not node)
            yield replace(program, nodes=rest, inputs={**program.inputs, **fresh}).pruned()
    for node in program.nodes:
        for source in node.input:
            first = node.output[0]
            if (
                source in values
                and values[source].shape == values[first].shape
                and values[source].dtype == values[first].dtype
            ):
                yield _without(program, node, source)


def _without(program: Program, node: onnx.NodeProto, source: str) -> Program:
    """Readers of the node's first output read one of its inputs instead."""
    nodes = []
    for one in program.nodes:
        if one is node:
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(one)
        for slot, name in enumerate(copy.input):
            if name == node.output[0]:
                copy.input[slot] = source
        nodes.append(copy)
    output = source if program.output == node.output[0] else program.output
    return replace(program, nodes=tuple(nodes), output=output).pruned()


def shrink(program: Program, failure: Failure, folder: Path, seed: int) -> tuple[Program, Failure]:
    """Greedily, until no candidate fails in the same way; then the fewest units."""
    improved = True
    while improved:
        improved = False
        for candidate in smaller(program):
            fewer = len(candidate.nodes) < len(program.nodes)
            if not fewer or not valid(candidate):
                continue
            found = judge(candidate, folder, seed).failure
            if found is not None and found.kind == failure.kind:
                program, failure, improved = candidate, found, True
                break
    for gone in [{name: (unit,)} for name, units in failure.gone.items() for unit in units]:
        found = judge(program, folder, seed, gone).failure
        if found is not None and found.kind == failure.kind:
            return program, found
    return program, failure


def reproducer(program: Program, failure: Failure, seed: int) -> str:
    """The program, line by line, and what to remove."""
    values = values_of(program)
    lines = [f"seed {seed}, opset {program.opset}: {failure.kind}. {failure.detail}"]
    lines += [
        f"  input {name} {list(array.shape)}{' (any batch)' * program.open_batch}"
        for name, array in program.inputs.items()
    ]
    for node in program.nodes:
        inputs = [_operand(name, program) for name in node.input]
        attrs = "".join(f", {one.name}={helper.get_attribute_value(one)!r}" for one in node.attribute)
        made = values[node.output[0]]
        shape = f"{list(made.shape)}{'' if made.dtype == np.float32 else f' {made.dtype}'}"
        lines.append(f"  {', '.join(node.output)} = {node.op_type}({', '.join(inputs)}{attrs})  # {shape}")
    lines += [f"  output {program.output}", f"  remove {dict(failure.gone)}"]
    return "\n".join(lines)


def _operand(name: str, program: Program) -> str:
    if name not in program.constants:
        return name or "-"
    array = np.asarray(program.constants[name])
    return str(array.tolist()) if array.dtype.kind != "f" or not array.ndim else f"weight{list(array.shape)}"
