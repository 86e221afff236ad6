"""Calibration samples as the arguments of a TorchScript module, which does not say what it takes.

In: the module, the calibration file and what `preprocess` makes of it. Out: arrays by argument, and the types that each
may be given as. Refused: a file that cannot be read, arguments without an array, arrays without a sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.errors import EspalierError
from schemas.request import Preprocess
from worker.engine.data import InputSpec
from worker.engine.data.files import read_file
from worker.engine.data.preprocess import arithmetic, arrange, chosen_inputs
from worker.engine.data.read import named
from worker.engine.graph import Array

Example = Mapping[str, torch.Tensor]  # by argument of `forward`


def arguments_of(module: torch.jit.ScriptModule) -> Sequence[Any]:
    """What `forward` takes, after the module itself."""
    method: Any = module.forward
    found: Sequence[Any] = method.schema.arguments[1:]
    return found


@dataclass(frozen=True)
class Rows:
    """Some samples for each argument, and the types that they may be given as, the likeliest first."""

    arrays: Mapping[str, Array]
    types: Mapping[str, tuple[torch.dtype, ...]]

    def example(self, types: Mapping[str, torch.dtype], size: int) -> Example:
        """So many rows; where there are fewer, they repeat."""
        picked = {name: np.resize(np.arange(len(array)), size) for name, array in self.arrays.items()}
        return {
            name: torch.from_numpy(np.ascontiguousarray(array[picked[name]])).to(types[name])
            for name, array in self.arrays.items()
        }


def rows_of(module: torch.jit.ScriptModule, path: Path, preprocess: Preprocess, max_bytes: int, most_rows: int) -> Rows:
    """The first samples of the calibration file, so many at most, by argument, as `preprocess` makes them."""
    raw = read_file(path, max_bytes=max_bytes, where="calibration")
    arguments = arguments_of(module)
    taken = [one.name for one in arguments if not one.has_default_value() or one.name in raw.arrays]
    wide = [InputSpec(name, np.dtype(np.float32), (None, None)) for name in taken]
    arrays, _ = named(raw, wide, "calibration")
    for name, array in arrays.items():
        if array.ndim < 1 or not array.size:
            raise EspalierError("data_empty", f"array {name!r} holds no sample", where="calibration")
    worked = preprocess.scale is not None or preprocess.mean or preprocess.std
    floats = [name for name in taken if arrays[name].dtype.kind == "f" or arrays[name].dtype == np.uint8]
    specs = [InputSpec(one, np.dtype(np.float32 if one in floats or worked else np.int64), ()) for one in taken]
    chosen = chosen_inputs(preprocess, specs)
    found, types = {}, {}
    for name in taken:
        rows = arrays[name][:most_rows]
        options = preprocess if name in chosen else Preprocess()
        spec = InputSpec(name, np.dtype(np.float32), (None,) * rows.ndim)
        laid, axis = arrange(rows, spec, options)
        found[name] = arithmetic(laid, axis, spec, options)
        types[name] = _types(module, found[name], arrays[name].dtype)
    return Rows(found, types)


def _types(module: torch.jit.ScriptModule, array: Array, sent: "np.dtype[np.generic]") -> tuple[torch.dtype, ...]:
    """Floats as the module's own; integers as indices or as numbers, bytes the other way round."""
    own = next((one.dtype for one in module.parameters() if one.dtype.is_floating_point), torch.float32)
    if array.dtype.kind == "f":
        return (own,)
    if sent.kind == "b":
        return (torch.bool,)
    return (own, torch.int64) if sent == np.uint8 else (torch.int64, own)
