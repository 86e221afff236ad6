"""The compiled check of a finished job: its artifact as firmware, measured, run in an emulator and compared.

In: the job's work folder, with the artifact, the reports and the samples that `keep_samples` left there. Out: the same
folder, in which the reports have the figures, or the reason why there are none, and model.c is the firmware's source.
Refused: nothing; whatever goes wrong here is said in the report, and the job's other results stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from worker.engine.memory import shortened
from worker.engine.render import write_reports
from worker.engine.stages import Emit
from worker.engine.verify import DEFAULT_TOLERANCE, relative_difference

SAMPLES = "check.npz"
SOURCE = "model.c"
MOST_SAMPLES = 4
MOST_MACS = 50_000_000  # of all samples together: the emulator takes some ten instructions for each

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
    except Exception as error:  # the edge of the stage: a job never loses its other results to it
        failure = EspalierError("device_check_failed", f"{type(error).__name__}: {shortened(error)}").failure
        compiled = Compiled(processor=processor, figures=None, refused=failure)
    else:
        compiled = Compiled(processor=processor, figures=figures, refused=None)
        add_file(folder, SOURCE).write_text(program.source, encoding="utf-8")
    devices = report.devices.model_copy(update={"compiled": compiled})
    write_reports(report.model_copy(update={"devices": devices}), folder)


def _figures(folder: Path, report: Report, processor: Processor) -> tuple[CompiledFigures, Program]:
    tools = toolchain.find()
    feeds = _feeds(folder / SAMPLES)
    with TemporaryDirectory(prefix="firmware-", dir=folder) as name:
        made = compiled(onnx.load(folder / ARTIFACT), feeds, processor, tools, Path(name))
    figures = CompiledFigures(
        compiler=f"arm-none-eabi-gcc {made.image.compiler}",
        weights_bytes=made.image.weights_bytes,
        program_bytes=made.image.program_bytes,
        arena_bytes=made.image.arena_bytes,
        stack_bytes=made.run.stack_bytes,
        estimated_flash_bytes=report.after.flash_bytes,
        estimated_ram_bytes=report.after.peak_ram_bytes,
        instructions=made.run.instructions,
        samples=len(feeds),
        max_relative_difference=made.difference,
        agrees=made.difference <= DEFAULT_TOLERANCE,
    )
    return figures, made.program


@dataclass(frozen=True)
class Firmware:
    """One model through the toolchain. `difference`: the largest relative one from onnxruntime."""

    program: Program
    image: Image
    run: Run
    difference: float


def compiled(
    proto: onnx.ModelProto, feeds: Sequence[Feed], processor: Processor, tools: toolchain.Toolchain, folder: Path
) -> Firmware:
    """Generate, build, run on samples and compare."""
    held = {tensor.name for tensor in proto.graph.initializer}
    names = [one.name for one in proto.graph.input if one.name not in held]
    session = evaluate.session(proto.SerializeToString())
    expected = [[np.asarray(one) for one in session.run(None, dict(feed))] for feed in feeds]
    shapes = {name: feeds[0][name].shape for name in names}
    shapes |= {one.name: array.shape for one, array in zip(proto.graph.output, expected[0], strict=True)}
    program = generate(proto, feeds[0], shapes, folder)
    if len(program.inputs) != len(names):
        raise EspalierError("device_operator_unsupported", "the generated program takes other inputs than the model")
    # The generator makes names of C of the model's, and keeps their order.
    own = [{place.value.name: feed[name] for place, name in zip(program.inputs, names, strict=True)} for feed in feeds]
    image = build(program, len(feeds), processor, tools, folder)
    ran = run(image, program, own, processor, tools)
    return Firmware(program, image, ran, _worst(ran, expected))


def _worst(ran: Run, expected: Sequence[Sequence[Array]]) -> float:
    return max(
        relative_difference(ours.reshape(theirs.shape), theirs)
        for outputs, wanted in zip(ran.outputs, expected, strict=True)
        for ours, theirs in zip(outputs, wanted, strict=True)
    )


def _feeds(path: Path) -> list[Feed]:
    found: dict[int, dict[str, Array]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            found.setdefault(int(number), {})[name] = arrays[key]
    return [found[number] for number in sorted(found)]
