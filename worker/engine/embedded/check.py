"""The compiled check of a finished job: its artifact as firmware, measured, run in an emulator and compared.

In: the job's work folder, with the artifact, the reports and the samples that `keep_samples` left there. Out: the same
folder, in which the reports have the figures, or the reason why there are none, and model.c is the firmware's source.
Refused: nothing; whatever goes wrong here is said in the report, and the job's other results stay.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from schemas.device import Compiled, CompiledFigures, Processor
from schemas.errors import EspalierError
from schemas.files import ARTIFACT
from schemas.job import Progress
from schemas.report import Report
from worker.engine import evaluate
from worker.engine.data import Samples
from worker.engine.embedded import toolchain
from worker.engine.embedded.firmware import Image, Run, build, run
from worker.engine.embedded.generate import generate
from worker.engine.embedded.program import Program
from worker.engine.further import add_file
from worker.engine.graph import Array
from worker.engine.render import write_reports
from worker.engine.stages import Emit
from worker.engine.verify import DEFAULT_TOLERANCE, relative_difference

SAMPLES = "check.npz"
SOURCE = "model.c"
MOST_SAMPLES = 4
MOST_MACS = 50_000_000  # of all samples together: the emulator takes some ten instructions for each
LEAST_BYTES = 1  # of a file that is a result

Feed = Mapping[str, Array]


def keep_samples(folder: Path, samples: Samples, batch: int, macs: int) -> None:
    """A few samples for the emulator, fewer of a large model; each a batch of the size that the model insists on."""
    wanted = max(1, min(MOST_SAMPLES, MOST_MACS // max(macs, 1), samples.count // batch))
    feeds = [evaluate.pad(samples.rows(number * batch, (number + 1) * batch), batch).inputs for number in range(wanted)]
    arrays = {f"{number}/{name}": array for number, feed in enumerate(feeds) for name, array in feed.items()}
    np.savez(folder / SAMPLES, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options


def check(folder: Path, emit: Emit) -> None:
    """Do what the job's `verify_on` asks for, and write the reports anew."""
    report = Report.model_validate_json((folder / "report.json").read_bytes())
    processor = report.options.verify_on
    assert processor is not None, "the caller has looked"
    emit(Progress(stage="compile", fraction=1.0, message=f"compiling for {processor} and running it in an emulator"))
    try:
        figures, program = _figures(folder, report, processor)
    except EspalierError as error:
        compiled = Compiled(processor=processor, figures=None, refused=error.failure)
    else:
        compiled = Compiled(processor=processor, figures=figures, refused=None)
        add_file(folder, SOURCE).write_text(program.source, encoding="utf-8")
    devices = report.devices.model_copy(update={"compiled": compiled})
    write_reports(report.model_copy(update={"devices": devices}), folder)


def _figures(folder: Path, report: Report, processor: Processor) -> tuple[CompiledFigures, Program]:
    tools = toolchain.find()
    artifact = folder / ARTIFACT
    proto = onnx.load(artifact)
    feeds = _feeds(folder / SAMPLES)
    with TemporaryDirectory(prefix="firmware-", dir=folder) as name:
        program, image, ran = compiled(proto, feeds, processor, tools, Path(name))
    worst = _worst(artifact, feeds, ran)
    figures = CompiledFigures(
        compiler=f"arm-none-eabi-gcc {image.compiler}",
        weights_bytes=image.weights_bytes,
        program_bytes=image.program_bytes,
        arena_bytes=image.arena_bytes,
        stack_bytes=ran.stack_bytes,
        estimated_flash_bytes=report.after.flash_bytes,
        estimated_ram_bytes=report.after.peak_ram_bytes,
        instructions=ran.instructions,
        samples=len(feeds),
        max_relative_difference=worst,
        agrees=worst <= DEFAULT_TOLERANCE,
    )
    return figures, program


def compiled(
    proto: onnx.ModelProto, feeds: Sequence[Feed], processor: Processor, tools: toolchain.Toolchain, folder: Path
) -> tuple[Program, Image, Run]:
    """One model through the toolchain, on samples."""
    held = {tensor.name for tensor in proto.graph.initializer}
    names = [one.name for one in proto.graph.input if one.name not in held]
    program = generate(proto, {name: feeds[0][name].shape for name in names})
    if len(program.inputs) != len(names):
        raise EspalierError("device_operator_unsupported", "the generated program takes other inputs than the model")
    # The generator makes names of C of the model's, and keeps their order.
    own = [{place.value.name: feed[name] for place, name in zip(program.inputs, names, strict=True)} for feed in feeds]
    image = build(program, len(feeds), processor, tools, folder)
    return program, image, run(image, program, own, processor, tools)


def _feeds(path: Path) -> list[Feed]:
    found: dict[int, dict[str, Array]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            found.setdefault(int(number), {})[name] = arrays[key]
    return [found[number] for number in sorted(found)]


def _worst(artifact: Path, feeds: Sequence[Feed], ran: Run) -> float:
    """The largest relative difference from onnxruntime. What the firmware keeps narrower is compared as it is."""
    session = evaluate.session(artifact.read_bytes())
    return max(
        relative_difference(ours, np.asarray(theirs).reshape(ours.shape))
        for feed, outputs in zip(feeds, ran.outputs, strict=True)
        for ours, theirs in zip(outputs, session.run(None, dict(feed)), strict=True)
    )
