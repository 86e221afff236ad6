"""What the child of the real launcher does for an order: the engine's work, from files to files.

In: an order and where to report. Out: the job's files in the work folder, or a verdict on the artifact by its silence.
Refused: whatever the engine refuses. Imported once, by the launcher; every child finds it there.
"""

import onnxruntime

from schemas.inspect_request import InspectRequest
from schemas.request import PruneRequest
from worker.engine.embedded.check import check
from worker.engine.inspect import inspect
from worker.engine.run import InputFile, Inputs, Limits, prune
from worker.engine.sweep import sweep
from worker.engine.verify import verify_artifact
from worker.orders import Emit, Order, Source

# There is no network inside, and it would look for a home folder to keep an identifier in.
onnxruntime.disable_telemetry_events()


def perform(order: Order, emit: Emit) -> None:
    """Run the job, compile what it made, or verify it."""
    if order.kind == "verify":
        assert order.artifact is not None
        verify_artifact(order.artifact, order.workdir)
        return
    if order.kind == "compile":
        check(order.workdir, emit)
        return
    assert order.request is not None
    assert order.sources is not None
    inputs = Inputs(
        model=_file(order.sources.model),
        external={location: _file(source) for location, source in order.sources.external.items()},
        calibration=_file(order.sources.calibration) if order.sources.calibration else None,
        evaluation=_file(order.sources.evaluation) if order.sources.evaluation else None,
        history=_file(order.sources.history) if order.sources.history else None,
    )
    limits = Limits(order.bounds.threads, order.bounds.data_bytes, torchscript=order.bounds.torchscript)
    if isinstance(order.request, PruneRequest):
        prune(order.request, inputs, order.workdir, limits, emit)
    elif isinstance(order.request, InspectRequest):
        inspect(order.request, inputs, order.workdir, limits, emit)
    else:
        sweep(order.request, inputs, order.workdir, limits, emit)


def _file(source: Source) -> InputFile:
    return InputFile(path=source.path, sha256=source.sha256, name=source.name, bytes=source.bytes)
