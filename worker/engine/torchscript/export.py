"""A checked TorchScript archive becomes an ONNX file that computes the same, shown on the calibration data.

In: the archive, the calibration samples (a module does not say what shapes it takes), and where to write. Out: an ONNX
file at opset 17 whose initializers carry the names of the state dict. Refused: a process that may not load code
(`torchscript_untrusted`), a missing calibration file, arrays that the module does not take, operators without an ONNX
form, results that are no tensors, a module whose answers vary, and an export that does not compute what the module
does.
"""

import io
import itertools
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch.onnx.errors import OnnxExporterError

from schemas.errors import EspalierError
from schemas.request import Preprocess
from worker.engine.graph import Array
from worker.engine.torchscript import attention, symbolics
from worker.engine.torchscript.archive import checked_copy
from worker.engine.torchscript.calls import graph_node_allowed
from worker.engine.torchscript.samples import Example, Rows, arguments_of, rows_of
from worker.engine.verify import DEFAULT_TOLERANCE, TOLERANCE, relative_difference

OPSET = 17
# Two sizes show that the batch is free; a module made for one size is tried with these.
FREE_BATCHES = (2, 3)
FIXED_BATCHES = (1, 2, 3, 4, 8, 16, 32, 64, 128)
MOST_ROWS = max(FIXED_BATCHES)
RECIPE = 'Or export it where its code is: torch.onnx.export(model.eval(), (example,), "model.onnx", dynamo=False).'
# What scripted nn.MultiheadAttention and nn.TransformerEncoder ask before they choose among fused and plain operators.
CHOOSING = ("aten::is_autocast_enabled", "aten::is_grad_enabled", "aten::format", "_nested_tensor", "UNKNOWN_SCALAR")
CHOOSES = (
    "Scripted attention chooses between forms as it runs, which ONNX cannot say; a traced module has chosen: "
    "torch.jit.trace(model.eval(), (example,))."
)

attention.register(OPSET)
symbolics.register(OPSET)


def untrusted(name: str) -> EspalierError:
    """Why a TorchScript file is not opened here, and what to do."""
    return EspalierError(
        "torchscript_untrusted",
        "TorchScript is a program that runs when it is loaded, and this process may not load one: a worker does so "
        "only where it is fully confined (see /readyz) and ESPALIER_TORCHSCRIPT is not off, and --local only with "
        "--trust-torchscript",
        where=name,
        hint='Export it where its code is: torch.onnx.export(model.eval(), (example,), "model.onnx", dynamo=False).',
    )


def to_onnx(
    path: Path, name: str, calibration: Path | None, preprocess: Preprocess, max_data_bytes: int, workdir: Path
) -> Path:
    """Check, load, export and compare; the path of the ONNX file, in the work folder."""
    if calibration is None:
        raise EspalierError(
            "calibration_required",
            "a TorchScript module does not say what inputs it takes; their names, shapes and types come from the data",
            where="calibration",
        )
    clean, exported = workdir / "torchscript.pt", workdir / "torchscript.onnx"
    checked_copy(path, clean, name)
    with _silent(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls all of TorchScript deprecated
        module = _load(clean, name)
        clean.unlink()
        rows = rows_of(module, calibration, preprocess, max_data_bytes, MOST_ROWS)
        sizes, examples = _examples(module, rows, name)
        exported.write_bytes(_export_checked(module, examples, sizes, name))
    return exported


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing that torch prints, in C++ or Python, may reach whoever reads our output."""
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_WRONLY)
    saved = os.dup(1), os.dup(2)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in enumerate(saved, start=1):
            os.dup2(kept, number)
            os.close(kept)
        os.close(nothing)


def _refused(detail: str, name: str, hint: str = RECIPE) -> EspalierError:
    return EspalierError("torchscript_refused", detail, where=name, hint=hint)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


# ---- load


def _load(path: Path, name: str) -> torch.jit.ScriptModule:
    """The module in evaluation mode, with every operator of its compiled graph known. Nothing of it has run."""
    try:
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        module.eval()
        graph = module.forward.inlined_graph
    except (RuntimeError, AttributeError, ValueError) as error:
        raise _refused(f"it cannot be loaded: {_first_line(error)}", name) from None
    foreign = sorted({kind for kind in _kinds(graph) if not graph_node_allowed(kind)})
    if foreign:
        raise _refused(f"it computes with operators that have no ONNX form: {', '.join(foreign)}", name)
    return module  # type: ignore[no-any-return]


def _kinds(block: Any) -> Iterator[str]:
    """The operators of a graph, those of branches and loops included."""
    for node in block.nodes():
        yield str(node.kind())
        for inner in node.blocks():
            yield from _kinds(inner)


# ---- inputs


def _examples(module: torch.jit.ScriptModule, rows: Rows, name: str) -> tuple[tuple[int, ...], list[Example]]:
    """Batch sizes that the module takes and inputs of those sizes: two sizes where its batch is free, else one."""
    first: Exception | None = None
    for sizes in (FREE_BATCHES, *((size,) for size in FIXED_BATCHES)):
        for types in itertools.product(*rows.types.values()):
            chosen = dict(zip(rows.types, types, strict=True))
            examples = [rows.example(chosen, size) for size in sizes]
            try:
                for example in examples:
                    _answers(module, example, name)
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                first = first or error
                continue
            return sizes, examples
    assert first is not None
    raise EspalierError("model_does_not_run", f"the module does not take the data: {_last_line(first)}", where=name)


def _last_line(error: Exception) -> str:
    """An error inside TorchScript says where first, and what it was at the end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


@torch.inference_mode()
def _answers(module: torch.jit.ScriptModule, example: Example, name: str) -> list[Array]:
    """All tensors that the module gives."""
    found = list(_flat(module(**example)))
    if not found or not all(isinstance(one, torch.Tensor) for one in found):
        raise _refused("it gives something else than tensors; an ONNX model can only give tensors", name)
    return [one.cpu().numpy() for one in found]


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for one in value:
            yield from _flat(one)
    else:
        yield value


# ---- export


def _export_checked(
    module: torch.jit.ScriptModule, examples: Sequence[Example], sizes: tuple[int, ...], name: str
) -> bytes:
    """The ONNX file, shown to compute the same; with a fixed batch, where a free one does not survive the export."""
    expected = [_answers(module, example, name) for example in examples]
    for example, answers in zip(examples, expected, strict=True):
        if not all(map(np.array_equal, answers, _answers(module, example, name), itertools.repeat(True))):
            hint = f"It was traced in training mode: call model.eval() first, then trace again. {RECIPE}"
            raise _refused("it answers the same question differently each time", name, hint)
    exported = _export(module, examples[0], expected, sizes, name)
    worst = _difference(exported, examples, expected)
    if worst is not None and len(sizes) > 1:
        sizes, examples, expected = sizes[:1], examples[:1], expected[:1]
        exported = _export(module, examples[0], expected, sizes, name)
        worst = _difference(exported, examples, expected)
    if worst is not None:
        raise _refused(f"its export does not compute what it does: {worst}", name)
    return exported


def _export(
    module: torch.jit.ScriptModule,
    example: Example,
    expected: Sequence[Sequence[Array]],
    sizes: Sequence[int],
    name: str,
) -> bytes:
    outputs = ["output"] if len(expected[0]) == 1 else [f"output_{number}" for number in range(len(expected[0]))]
    free = {one: {0: "batch"} for one in example} if len(sizes) > 1 else {}
    if free:
        shapes = zip(outputs, *expected, strict=True)
        free |= {one: {0: "batch"} for one, *arrays in shapes if _follows(arrays, sizes)}
    sink = io.BytesIO()
    try:
        with torch.no_grad():
            torch.onnx.export(
                module,
                _positional(module, example),
                sink,  # type: ignore[arg-type]  # a stream is taken where dynamo is off
                dynamo=False,
                do_constant_folding=False,
                opset_version=OPSET,
                input_names=list(example),
                output_names=outputs,
                dynamic_axes=free,
            )
    except (OnnxExporterError, RuntimeError, IndexError, ValueError, TypeError, AttributeError, KeyError) as error:
        words = _first_line(error)
        hint = f"{CHOOSES} {RECIPE}" if any(sign in words for sign in CHOOSING) else RECIPE
        raise _refused(f"it cannot be exported to ONNX: {words}", name, hint) from None
    return sink.getvalue()


def _positional(module: torch.jit.ScriptModule, example: Example) -> tuple[Any, ...]:
    """The arguments in their order, defaults where the data have nothing, up to the last that they have."""
    arguments = arguments_of(module)
    last = max(place for place, one in enumerate(arguments) if one.name in example)
    return tuple(example.get(one.name, one.default_value) for one in arguments[: last + 1])


def _follows(arrays: Sequence[Array], sizes: Sequence[int]) -> bool:
    """Whether an output has as many rows as the inputs."""
    return all(array.ndim > 0 and len(array) == size for array, size in zip(arrays, sizes, strict=True))


def _difference(exported: bytes, examples: Sequence[Example], expected: Sequence[Sequence[Array]]) -> str | None:
    """What is wrong with the exported file; None where it gives the module's own answers."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
        inputs = {port.name for port in session.get_inputs()}
        for example, answers in zip(examples, expected, strict=True):
            found = session.run(None, {name: value.numpy() for name, value in example.items() if name in inputs})
            for mine, theirs in zip(found, answers, strict=True):
                worst = relative_difference(np.asarray(mine), theirs)
                allowed = TOLERANCE.get(theirs.dtype.name, DEFAULT_TOLERANCE)
                if worst > allowed:
                    size = len(next(iter(example.values())))
                    return (
                        f"for {size} samples they differ by {worst:.1e} of the largest value; {allowed:.0e} is allowed"
                    )
    except Exception as error:  # onnxruntime raises many types, all of them about this file
        return " ".join(str(error).split())[:300]
    return None
