"""The other side of `benchmarks.rivals`, for an interpreter that has torch-pruning or onnxsim: JSON lines in and out.

Whatever goes wrong in a rival is an answer, not an end.
"""

import contextlib
import copy
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

TOLERANCE = 1e-4
BATCH = 100


def with_torch_pruning() -> Callable[[str, str], Any]:
    import torch
    import torch_pruning as tp

    from tests.zoo.models import ZOO, seeded

    def later_first(group: Any) -> Any:
        """Scores that depend on nothing but the position, so that the units are known beforehand."""
        return torch.arange(len(group[0].idxs), 0, -1, dtype=torch.float32)

    def pruner(module: Any, example: Any) -> Any:
        return tp.pruner.BasePruner(
            module, example, importance=later_first, pruning_ratio=0.5, ignored_layers=ends(module, example)
        )

    def ends(module: Any, example: Any) -> list[Any]:
        """Layers without which the output would have another size: their output axis is an output's axis."""
        with torch.no_grad():
            sizes = [tuple(one.shape) for one in flat(module(*example))]
        found = []
        for part in module.modules():
            if isinstance(part, torch.nn.Linear | torch.nn.modules.conv._ConvNd):
                smaller = copy.deepcopy(module)
                twin = dict(zip(map(id, module.modules()), smaller.modules(), strict=True))[id(part)]
                try:
                    graph = tp.DependencyGraph().build_dependency(smaller, example)
                    graph.get_pruning_group(twin, graph.get_pruner_of_module(twin).prune_out_channels, [0]).prune()
                    with torch.no_grad():
                        same = sizes == [tuple(one.shape) for one in flat(smaller(*example))]
                except Exception:
                    same = True
                if not same:
                    found.append(part)
        return found

    def flat(outputs: Any) -> list[Any]:
        return list(outputs) if isinstance(outputs, tuple) else [outputs]

    def masked(module: Any, example: Any) -> list[Any]:
        """The full module whose readers see zero for the units that will go."""
        whole = copy.deepcopy(module)
        tool = pruner(whole, example)
        for group in tool.step(interactive=True):
            for dependency, indices in group:
                part, reads = dependency.target.module, dependency.handler.__name__ == "prune_in_channels"
                linear = isinstance(part, torch.nn.Linear)
                dense = isinstance(part, torch.nn.modules.conv._ConvNd) and part.groups == 1
                if reads and (linear or dense):
                    axis = -1 if linear else 1
                    part.register_forward_pre_hook(hook(list(indices), axis))
        with torch.no_grad():
            return flat(whole(*example))

    def hook(indices: list[int], axis: int) -> Any:
        def zero(_: Any, inputs: Any) -> Any:
            return (inputs[0].index_fill(axis, torch.tensor(indices), 0.0),)

        return zero

    def ask(_: str, name: str) -> Any:
        module = seeded(ZOO[name])
        example = tuple(map(torch.from_numpy, ZOO[name].feeds(4)))
        before = sum(one.numel() for one in module.parameters())
        wanted = masked(module, example)
        pruner(module, example).step()
        with torch.no_grad():
            found = flat(module(*example))
        exact = all(
            float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max()) for a, b in zip(found, wanted, strict=True)
        )
        return {"kept": sum(one.numel() for one in module.parameters()) / before, "exact": exact}

    return ask


def with_onnxsim() -> Callable[[str, str], Any]:
    import onnx
    import onnxruntime as ort
    from onnxsim import pruning

    def weights(model: Any) -> int:
        floats = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16
        return sum(int(np.prod(one.dims)) for one in model.graph.initializer if one.data_type in floats)

    def ask(path: str, _: str) -> Any:
        model = onnx.load(path)
        before = weights(model)
        smaller = pruning.apply_structured_pruning(model, 0.5)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            ort.InferenceSession(smaller.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:
            return "invalid file"
        return {"kept": weights(smaller) / before if before else 1.0, "exact": None}

    return ask


def channels(model: str, target: str, method: str, sparsity: str, calibration: str) -> None:
    """onnxsim's structured pruning, with `+ fit` its closed-form fine-tuning too, into a file; prints the share of the
    parameters that stay."""
    import onnx
    from onnxsim import pruning

    whole = onnx.load(model)
    held = {name: array for name, array in np.load(calibration).items() if name != "labels"}
    count = len(next(iter(held.values())))
    feeds = [{name: array[i : i + BATCH] for name, array in held.items()} for i in range(0, count, BATCH)]
    if method.startswith("L2"):
        smaller = pruning.apply_structured_pruning(whole, float(sparsity))
    else:
        smaller = pruning.apply_structured_wanda_pruning(whole, calibration_data=feeds, sparsity=float(sparsity))
    if method.endswith("+ fit"):
        from onnxsim.finetune import apply_pruning_finetune

        smaller = apply_pruning_finetune(onnx.load(model), smaller, calibration_data=feeds)
    onnx.save(smaller, target)
    sizes = [sum(int(np.prod(one.dims)) for one in proto.graph.initializer) for proto in (onnx.load(model), smaller)]
    print(sizes[1] / sizes[0])


def live(weights: str, target: str, method: str, share: str, calibration: str) -> None:
    """Torch-Pruning on a live module: that share of every group's units, into a file; prints what stays of the
    parameters. `Taylor` looks at labels, which nothing else here does."""
    import torch
    import torch_pruning as tp

    module = _module(weights)
    held = np.load(calibration)
    images = torch.from_numpy(held["input"])
    before = sum(one.numel() for one in module.parameters())
    importance = tp.importance.MagnitudeImportance(p=2) if method == "L2" else tp.importance.TaylorImportance()
    last = [part for part in module.modules() if isinstance(part, torch.nn.Linear)][-1:]
    pruner = tp.pruner.BasePruner(
        module, (images[:2],), importance=importance, pruning_ratio=float(share), ignored_layers=last
    )
    if method != "L2":
        torch.nn.functional.cross_entropy(module(images), torch.from_numpy(held["labels"])).backward()
    pruner.step()
    names = {"input_names": ["input"], "output_names": ["logits"]}
    torch.onnx.export(
        module, (images[:2],), target, dynamic_axes={"input": {0: "n"}, "logits": {0: "n"}}, dynamo=False, **names
    )
    print(sum(one.numel() for one in module.parameters()) / before)


def _module(weights: str) -> Any:
    """The networks as they were trained: by the script beside their weights."""
    import importlib.util
    from pathlib import Path

    import torch

    path = Path(weights)
    spec = importlib.util.spec_from_file_location("train_seeds", path.with_name("train_seeds.py"))
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    makers: dict[str, Callable[[], Any]] = {
        "mlp_fashion": script.MLPFashion,
        "cnn_mnist": script.CNNMnist,
        "mlp100_mnist": lambda: script.Sig(784, 100, 10),
    }
    module = makers[path.stem]()
    module.load_state_dict(torch.jit.load(weights).state_dict())
    return module.eval()


def main() -> None:
    if sys.argv[1] in ("channels", "live"):
        {"channels": channels, "live": live}[sys.argv[1]](*sys.argv[2:])
        return
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a rival prints is not an answer
    try:
        ask = {"torch_pruning": with_torch_pruning, "onnxsim": with_onnxsim}[sys.argv[1]]()
    except ImportError:
        print('"not installed"', file=pipe)
        return
    print('"ready"', file=pipe)
    for line in sys.stdin:
        given = json.loads(line)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                answer = ask(given["path"], given["module"])
        except Exception as error:
            answer = f"error: {type(error).__name__}"
        print(json.dumps(answer), file=pipe)


if __name__ == "__main__":
    main()
