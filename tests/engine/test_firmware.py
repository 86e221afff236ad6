"""Models as firmware: compiled for real, run in the emulator, compared with onnxruntime; and every refusal."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from schemas.device import Processor
from schemas.errors import EspalierError
from schemas.report import Report
from schemas.request import parse_options
from tests.engine import nets_layers, nets_layout, nets_recurrent
from tests.engine.dissect import dissect
from tests.engine.nets import ROW, ZOO, Node, cnn, conv, feeds_for, gemm, layer, mlp, model, residual, save
from tests.engine.toolchains import needs_toolchain
from worker.engine import arena, cost, devices
from worker.engine.arena import Plan
from worker.engine.data import Samples
from worker.engine.embedded import toolchain
from worker.engine.embedded.check import SAMPLES, Firmware, check, compiled, keep_samples
from worker.engine.embedded.firmware import run
from worker.engine.embedded.program import planned
from worker.engine.run import InputFile, Inputs, Limits, prune

HALF = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}


def firmware(proto: ModelProto, folder: Path, processor: Processor = "cortex-m4") -> Firmware:
    """Two samples through the emulator."""
    both = feeds_for(proto, 2)
    feeds = [{name: array[at : at + 1] for name, array in both.items()} for at in range(2)]
    made = compiled(proto, feeds, processor, toolchain.find(), folder)
    assert made.program.arena_bytes == made.image.arena_bytes
    return made


def two_outputs() -> ModelProto:
    """Two inputs of two sizes; an output that is also read on, and one that is a view."""
    nodes = [
        gemm("fc1", "x", "h"),
        Node("Relu", ["h"], "r"),
        Node("Add", ["r", "z"], "s"),
        Node("Reshape", ["s", "target"], "y"),
        gemm("fc2", "r", "w"),
    ]
    weights = {**layer("fc1", 6, 12), **layer("fc2", 4, 6), "target": np.array([0, 2, 3])}
    return model(nodes, weights, {**ROW, "z": ["N", 6]}, ["y", "w"])


@needs_toolchain
@pytest.mark.parametrize(
    ("build", "processor"),
    [
        (ZOO["residual"], "cortex-m4"),
        (ZOO["squeeze_excite"], "cortex-m7"),
        (ZOO["dense_block"], "cortex-m4"),
        (ZOO["reshaped_at_run_time"], "cortex-m7"),
        (two_outputs, "cortex-m4"),
        (nets_recurrent.lstm, "cortex-m4"),
        (nets_layout.attention_computed_target, "cortex-m4"),
    ],
    ids=["residual", "squeeze_excite", "dense_block", "reshaped_at_run_time", "two_outputs", "lstm", "attention"],
)
def test_firmware_computes_what_onnxruntime_does_in_the_estimated_memory(
    build: type[ModelProto], processor: Processor, tmp_path: Path
) -> None:
    proto = build()
    made = firmware(proto, tmp_path, processor)
    assert made.difference <= 1e-5
    given = {name: array[:1] for name, array in feeds_for(proto, 2).items()}
    dissected = dissect(proto, tmp_path, given=given)
    seen = dissected.analysis.ties.seen
    estimate = arena.peak_ram_bytes(dissected.graph, seen, cost.shapes_after(seen, {}))
    # Arithmetic on shapes is folded by the generator; the estimate counts its few numbers.
    assert 0 <= estimate - made.program.arena_bytes <= 32
    assert 0 < made.run.stack_bytes < 1024
    assert made.run.instructions > sum(cost.macs_by_op(dissected.graph, lambda name: seen.shapes[name]).values())


@needs_toolchain
def test_a_plan_that_overlaps_is_seen_in_the_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "plan", lambda wanted: Plan((0,) * len(wanted), max(one.bytes for one in wanted)))
    assert firmware(residual(), tmp_path).difference > 1e-2


@needs_toolchain
def test_the_same_firmware_takes_the_same_instructions(tmp_path: Path) -> None:
    made = firmware(mlp(), tmp_path)
    feeds = [{made.program.inputs[0].value.name: array[None]} for array in feeds_for(mlp(), 2)["x"]]
    again = run(made.image, made.program, feeds, "cortex-m4", toolchain.find())
    assert made.run.instructions == again.instructions


@needs_toolchain
def test_what_the_board_has_no_room_for_is_refused(tmp_path: Path) -> None:
    """Three channels of 640 x 640 and the eight that are made of them: 18 MB."""
    net = model([conv("c", "x", "y", pads=0)], layer("c", 8, 3, 1, 1), {"x": [1, 3, 640, 640]}, ["y"])
    with pytest.raises(EspalierError) as caught:
        compiled(net, [feeds_for(net, 1)], "cortex-m4", toolchain.find(), tmp_path)
    assert "device_memory_exceeded" == caught.value.code


@needs_toolchain
@pytest.mark.parametrize(
    ("build", "operator"), [(nets_recurrent.rnn, "RNN"), (nets_layers.einsum, "Einsum")], ids=["rnn", "einsum"]
)
def test_an_operator_without_a_c_form_is_named(build: type[ModelProto], operator: str, tmp_path: Path) -> None:
    with pytest.raises(EspalierError) as caught:
        firmware(build(), tmp_path)
    assert ("device_operator_unsupported", operator) == (caught.value.code, caught.value.failure.where)


# ---- the stage of a job


def job(folder: Path, options: dict[str, object]) -> Report:
    """A job as `python -m worker.engine` runs it."""
    path = save(cnn(), folder)
    np.savez(folder / "data.npz", **feeds_for(cnn(), 40))
    source, data = (InputFile(one, "0" * 64, one.name, one.stat().st_size) for one in (path, folder / "data.npz"))
    request = parse_options({**HALF, **options})
    report = prune(request, Inputs(source, {}, data, None), folder, Limits(1, 1 << 30), lambda _: None)
    if request.verify_on is not None:
        check(folder, lambda _: None)
    return report


def left(folder: Path) -> Report:
    return Report.model_validate_json((folder / "report.json").read_bytes())


@needs_toolchain
def test_a_job_reports_its_firmware_and_leaves_the_source(tmp_path: Path) -> None:
    before = job(tmp_path, {"verify_on": "cortex-m4"})
    assert before.devices.compiled == devices.unfinished("cortex-m4")
    found = left(tmp_path).devices.compiled
    assert found is not None
    assert None is found.refused
    assert found.figures is not None
    assert found.figures.agrees
    assert before.after.peak_ram_bytes == found.figures.arena_bytes == found.figures.estimated_ram_bytes
    assert found.figures.weights_bytes == pytest.approx(before.after.flash_bytes, rel=0.02)
    assert {"files": ["model.c"]} == json.loads((tmp_path / "files.json").read_text())
    assert "void model_run(void) {" in (tmp_path / "model.c").read_text()
    assert "it agrees with onnxruntime" in (tmp_path / "report.html").read_text()
    assert "it agrees with onnxruntime" in (tmp_path / "report.md").read_text()
    assert [] == list(tmp_path.glob("firmware-*"))


def test_without_a_toolchain_the_report_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    before = job(tmp_path, {"verify_on": "cortex-m7"})
    after = left(tmp_path)
    assert after.devices.compiled is not None
    assert after.devices.compiled.refused is not None
    assert "toolchain_missing" == after.devices.compiled.refused.code
    assert "install" in after.devices.compiled.refused.hint
    assert "toolchain_missing" in (tmp_path / "report.md").read_text()
    assert before.provenance == after.provenance
    assert onnx.load(tmp_path / "artifact.onnx").graph.node
    assert not (tmp_path / "model.c").exists()


def test_a_defect_of_the_check_leaves_the_job_its_results(tmp_path: Path) -> None:
    job(tmp_path, {})
    report = left(tmp_path)
    asked = report.model_copy(update={"options": report.options.model_copy(update={"verify_on": "cortex-m4"})})
    (tmp_path / "report.json").write_text(asked.model_dump_json(by_alias=True))
    (tmp_path / SAMPLES).write_bytes(b"no samples")
    check(tmp_path, lambda _: None)
    found = left(tmp_path).devices.compiled
    assert found is not None
    assert found.refused is not None
    assert found.refused.code in ("device_check_failed", "toolchain_missing")


def test_a_job_that_does_not_ask_is_not_compiled(tmp_path: Path) -> None:
    assert None is job(tmp_path, {}).devices.compiled
    assert not (tmp_path / SAMPLES).exists()


@pytest.mark.parametrize(("count", "batch", "macs", "kept"), [
    (40, 1, 1000, 4), (2, 1, 1000, 2), (40, 1, 20_000_000, 2), (40, 1, 10**12, 1), (3, 4, 1000, 1)
])  # fmt: skip
def test_large_models_are_run_on_few_samples(count: int, batch: int, macs: int, kept: int, tmp_path: Path) -> None:
    keep_samples(tmp_path, Samples({"x/../y": np.arange(count * 2.0).reshape(count, 2)}), batch, macs)
    with np.load(tmp_path / SAMPLES) as arrays:
        assert [f"{number}/x/../y" for number in range(kept)] == sorted(arrays.files)
        assert (batch, 2) == arrays[arrays.files[0]].shape


# ---- reading the generated program

GENERATED = """EMX_NODE_FN void node0__h_conv(const float input0[1][4], const float weights[4], float output[1][4]) {
}

/*
 * Node 0:
 * OpType: Conv
 */
/*
 * Node 1:
 * OpType: Relu
 */
EMX_NODE_FN void node1__r_relu(const float input0[1][4], float output[1][4]) {
}

const EMX_UNUSED float weight1_w[4] = {
    1
};

_Bool model_load(const char *path) {
    (void)path;
    return 1;
}

void model(const float x[1][4], float y[1][4]) {
    float tmp0_h[1][4];
    node0__h_conv(x, weight1_w, tmp0_h);
    node1__r_relu(tmp0_h, y);
}
"""


def test_a_program_is_laid_out_anew() -> None:
    program = planned(GENERATED)
    assert 32 == program.arena_bytes
    assert "model_load" not in program.source
    assert ["x"] == [place.value.name for place in program.inputs]
    assert program.inputs[0].offset != program.outputs[0].offset
    body = program.source[program.source.index("void model_run(void) {") :]
    at = program.outputs[0].offset
    assert f"float (*tmp0_h)[4] = (void *)(model_arena + {at});" in body  # Relu computes in place
    assert body.index("node0__h_conv(x, weight1_w, tmp0_h);") < body.index("node1__r_relu(tmp0_h, y);")


def test_weights_are_widened_just_before_they_are_read() -> None:
    """Widened first thing, w would lie beside x and h."""
    source = """
EMX_NODE_FN void node0__w_dequantizelinear(const int8_t input0[4], float output[4]) {
EMX_NODE_FN void node1__h_softmax(const float input0[1][4], float output[1][4]) {
EMX_NODE_FN void node2__y_gemm(const float input_a[1][4], const float input_b[4], float output[1][4]) {
const EMX_UNUSED int8_t weight1_q[4] = {};
void model(const float x[1][4], float y[1][4]) {
    float tmp0_w[4];
    float tmp1_h[1][4];
    node0__w_dequantizelinear(weight1_q, tmp0_w);
    node1__h_softmax(x, tmp1_h);
    node2__y_gemm(tmp1_h, tmp0_w, y);
}
"""
    program = planned(source)
    body = program.source[program.source.index("void model_run(void) {") :]
    order = [line.strip().split("(")[0] for line in body.splitlines() if line.strip().startswith("node")]
    assert ["node1__h_softmax", "node0__w_dequantizelinear", "node2__y_gemm"] == order
    assert 48 == program.arena_bytes  # w, h and y at the end; x is gone by then


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    float tmp0_h[1][4];", "    float tmp0_h[n][4];"),
        ("    float tmp0_h[1][4];", "    float *tmp0_h = malloc(16);"),
        ("node1__r_relu(tmp0_h, y);", "if (x[0][0] > 0) node1__r_relu(tmp0_h, y);"),
        ("node1__r_relu(tmp0_h, y);", "node1__r_relu(tmp0_h, 4, y);"),
        ("node0__h_conv(x, weight1_w, tmp0_h);", "node0__h_conv(x, somewhere, tmp0_h);"),
        ("void model(const float x[1][4],", "void model(int n, const float x[1][4],"),
        ("void model(", "int model("),
    ],
)
def test_a_program_of_another_form_is_refused(old: str, new: str) -> None:
    assert old in GENERATED
    with pytest.raises(EspalierError) as caught:
        planned(GENERATED.replace(old, new))
    assert "device_operator_unsupported" == caught.value.code


def test_the_toolchain_says_which_package_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EspalierError) as caught:
        toolchain.find(str(tmp_path))
    assert "toolchain_missing" == caught.value.code
    assert "install" in caught.value.failure.hint
