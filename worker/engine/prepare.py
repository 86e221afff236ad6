"""The first stages of every job: the model as a graph, the data as samples, the axes as groups.

In: a request and the paths of its inputs. Out: `Prepared`. Refused: whatever loading, reading and analysing refuse, as
an `EspalierError`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from schemas.errors import EspalierError
from schemas.kinds import JobRequest
from schemas.report import DataUse
from worker.engine import torchscript
from worker.engine.axes import Analysis, analyse
from worker.engine.blame import blamed
from worker.engine.data import Samples, Split, read_samples, split
from worker.engine.data.history import History, read_history
from worker.engine.execute import Executor
from worker.engine.graph import Graph, freeze
from worker.engine.load import Loaded, gzip_bytes, load
from worker.engine.probe import input_specs, look
from worker.engine.shelf import Shelf
from worker.engine.stages import InputFile, Inputs, Limits, Stages


@dataclass(frozen=True, eq=False)
class Prepared:
    """`probe` are samples to look at the model with; `executor` has run it once."""

    loaded: Loaded
    graph: Graph
    data: Split
    probe: Samples
    open_size: int | None  # what open dimensions were taken as, where there is no data
    executor: Executor
    analysis: Analysis
    device: Literal["cpu", "cuda"]
    folder: Path
    history: History | None


def prepare(
    request: JobRequest, inputs: Inputs, workdir: Path, limits: Limits, stage: Stages, shelf: Shelf
) -> Prepared:
    """Load, read, analyse."""
    torch.set_num_threads(limits.threads)
    device = _device(request)
    with stage("load", f"reading {inputs.model.name}"):
        loaded = _load(request, inputs, workdir, limits, shelf)
        with blamed(loaded):
            graph = freeze(loaded.model, request.sample_axes)
    with stage("data", "reading the data"):
        data = read(request, inputs, graph, limits, request.seed)
        history = _history(request, inputs, limits)
    with stage("analyse", "following the axes"):
        executor = Executor(graph, device)
        with blamed(loaded):
            probe = look(executor, data, request.seed)
        with blamed(loaded, probe.samples):
            analysis = analyse(graph, probe.seen, request.lossy)
    if probe.size is not None:
        data = replace(data, use=_made(data.use, probe.size))
    return Prepared(loaded, graph, data, probe.samples, probe.size, executor, analysis, device, workdir, history)


def _made(use: DataUse, size: int) -> DataUse:
    return use.model_copy(update={"how": f"{use.how} Open dimensions were taken as {size}."})


def _load(request: JobRequest, inputs: Inputs, workdir: Path, limits: Limits, shelf: Shelf) -> Loaded:
    """The model; one that came as TorchScript as its ONNX export, whose size on disk stays the uploaded file's."""
    model = inputs.model
    if not torchscript.is_torchscript(model.path):
        external = {location: file.path for location, file in inputs.external.items()}
        return load(model.path, external, model.name, shelf)
    if not limits.torchscript:
        raise torchscript.untrusted(model.name)
    calibration = inputs.calibration.path if inputs.calibration else None
    exported = torchscript.to_onnx(
        model.path, model.name, calibration, request.preprocess, limits.max_data_bytes, workdir
    )
    loaded = load(exported, {}, model.name, shelf)
    exported.unlink()
    return replace(loaded, file_bytes=model.bytes, gzip_bytes=gzip_bytes(model.path))


def _device(request: JobRequest) -> Literal["cpu", "cuda"]:
    if request.device == "cpu" or not torch.cuda.is_available():
        if request.device == "cuda":
            raise EspalierError("device_unavailable", "this process sees no CUDA device", where="/device")
        return "cpu"
    return "cuda"


def read(request: JobRequest, inputs: Inputs, graph: Graph, limits: Limits, seed: int) -> Split:
    """Calibration and evaluation samples, as the seed splits them."""
    specs = input_specs(graph, inputs.model.name)
    batch = graph.fixed_batch()

    def samples(file: InputFile | None, role: Literal["calibration", "evaluation"]) -> Samples | None:
        if file is None:
            return None
        return read_samples(
            file.path,
            specs,
            request.preprocess,
            max_bytes=limits.max_data_bytes,
            role=role,
            batch=batch,
            axes=graph.sample_axes,
        )

    calibration = samples(inputs.calibration, "calibration")
    if calibration is None and request.needs_data():
        raise EspalierError("calibration_required", request.why_data(), where="calibration")
    return split(calibration, samples(inputs.evaluation, "evaluation"), seed)


def _history(request: JobRequest, inputs: Inputs, limits: Limits) -> History | None:
    """The history of the training, where the request looks at it."""
    if not request.needs_history():
        return None
    if inputs.history is None:
        raise EspalierError("history_required", request.why_history(), where="history")
    return read_history(inputs.history.path, max_bytes=limits.max_data_bytes)
