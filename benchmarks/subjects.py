"""The models of the prunability benchmark, as files: the zoo, the `light_*` models inside the onnx package, and
what lies in ESPALIER_DATA.

The light models ship without weights (ConstantOfShape makes them all equal, so that no channel matters more than
another); here they get seeded ones of the same shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.backend.test
from onnx import numpy_helper

from benchmarks.folder import DATA
from tests.zoo.models import ZOO, Way, export

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
EXPORTED = Way("script", 17)

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Subject:
    """A model file and what to feed it; `module` names its live module in the zoo."""

    name: str
    path: Path
    feeds: Arrays | None = None
    module: str = ""


def subjects(folder: Path, patterns: list[str]) -> Iterator[Subject]:
    """Those whose names contain one of the patterns; all where there is none. Files are made as needed."""

    def wanted(name: str) -> bool:
        return not patterns or any(pattern in name for pattern in patterns)

    for name, entry in ZOO.items():
        if wanted(f"zoo/{name}"):
            path = folder / f"{name}.onnx"
            path.write_bytes(export(name, EXPORTED))
            feeds = {f"in{index}": array for index, array in enumerate(entry.feeds(4))}
            yield Subject(f"zoo/{name}", path, feeds, name)
    for path in sorted(LIGHT.glob("light_*.onnx")):
        if wanted(path.stem):
            own = folder / path.name
            own.write_bytes(with_weights(onnx.load(path)).SerializeToString())
            yield Subject(path.stem, own)
            own.unlink()
    for path in sorted([*DATA.glob("*.onnx"), *DATA.glob("seeds/*.onnx")]):
        if wanted(path.stem):
            yield Subject(path.stem, path)


def with_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Seeded initializers in place of ConstantOfShape."""
    rng = np.random.default_rng(seed)
    shapes = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(one) for one in shapes[node.input[0]])
        fan_in = max(int(np.prod(shape[1:])), 1)
        array = (rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))).astype(np.float32)
        if len(shape) == 1:  # scales and variances want to be positive
            array = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    model.ir_version = max(model.ir_version, 4)  # before that initializers were inputs, too
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
