"""TorchScript in: what torch itself writes is pruned like any model; what a stranger may have written is not opened."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from schemas.errors import EspalierError
from schemas.request import Preprocess, parse_options
from tests.engine.test_run import as_input
from worker.engine.run import Inputs, Limits, prune
from worker.engine.torchscript import is_torchscript, to_onnx
from worker.engine.torchscript.calls import operator_allowed

# Torch calls all of TorchScript deprecated; archives of it stay around for years.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


class Net(nn.Module):
    """Convolution, norm, a loop and a branch: scripting keeps the last two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout()
        self.body = nn.Sequential(nn.Linear(8, 6), nn.ReLU())
        self.out = nn.Linear(6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        x = self.drop(self.body(x))
        for _ in range(2):
            x = x * 0.5
        if x.size(0) > 100_000:
            raise ValueError("too many")
        return self.out(x)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, _ = self.lstm(self.embed(tokens))
        seen = self.attend(hidden, hidden, hidden, need_weights=False)[0]
        return self.out(seen[:, -1]), seen


class Fixed(nn.Module):
    """Works for four samples only."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x).view(4, 3)


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(x).abs() + torch.linalg.eigvalsh(x @ x.transpose(-1, -2)).sum()


Scripted = torch.jit.ScriptModule


def save(module: Scripted, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "net.pt"
    module.save(str(path))
    return path


def images(folder: Path, **changed: object) -> Path:
    arrays = {"image": np.random.default_rng(0).normal(size=(60, 3, 6, 6)).astype(np.float32), **changed}
    np.savez(folder / "calibration.npz", **arrays)  # type: ignore[arg-type]
    return folder / "calibration.npz"


def example_net() -> Net:
    """Torch's exporter shares what is equal, so nothing is."""
    torch.manual_seed(0)
    net = Net().eval()
    for number, values in enumerate(net.norm.state_dict().values()):
        if values.ndim:
            values.copy_(torch.rand(8) + number)
    return net


def traced() -> Scripted:
    found: Scripted = torch.jit.trace(example_net(), torch.zeros(2, 3, 6, 6), check_trace=False)
    return found


def scripted() -> Scripted:
    found: Scripted = torch.jit.script(example_net())
    return found


HALF = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}, "compensation": "none"}


@pytest.mark.parametrize("make", [traced, scripted])
def test_a_module_is_pruned_and_before_is_the_uploaded_file(make: Callable[[], Scripted], tmp_path: Path) -> None:
    path = save(make(), tmp_path)
    inputs = Inputs(as_input(path), {}, as_input(images(tmp_path)), None)
    report = prune(parse_options(HALF), inputs, tmp_path, Limits(1, 1 << 30, torchscript=True), lambda _: None)
    assert report.exactness.passed
    assert path.stat().st_size == report.before.file_bytes
    statistics, halves = 16, 2
    assert sum(one.numel() for one in example_net().parameters()) + statistics + halves == report.before.parameters
    assert {"conv": (8, 4), "body.0": (6, 3), "out": (4, 4)} == {
        layer.name: (layer.units_before, layer.units_after) for layer in report.layers
    }
    left = {one.name for one in tmp_path.iterdir()}
    assert {"artifact.onnx", "report.json", "report.html", "report.md", "net.pt", "calibration.npz"} == left
    ran = ort.InferenceSession(tmp_path / "artifact.onnx").run(None, {"image": np.zeros((5, 3, 6, 6), np.float32)})
    assert (5, 4) == np.asarray(ran[0]).shape


def converted(module: Scripted, folder: Path, data: Path, preprocess: Preprocess | None = None) -> onnx.ModelProto:
    path = save(module, folder)
    return onnx.load(to_onnx(path, "net.pt", data, preprocess or Preprocess(), 1 << 30, folder))


def ports(proto: onnx.ModelProto) -> dict[str, tuple[int, list[str | int]]]:
    """Type and shape of every input and output."""
    found = {}
    for port in (*proto.graph.input, *proto.graph.output):
        kind = port.type.tensor_type
        found[port.name] = kind.elem_type, [one.dim_param or one.dim_value for one in kind.shape.dim]
    return found


def test_indices_and_several_outputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", tokens=np.random.default_rng(0).integers(0, 10, (20, 7)).astype(np.int32))
    module = torch.jit.trace(Words().eval(), torch.zeros(2, 7, dtype=torch.long), check_trace=False)
    found = ports(converted(module, tmp_path, tmp_path / "data.npz"))
    assert (onnx.TensorProto.INT64, ["batch", 7]) == found["tokens"]
    assert (onnx.TensorProto.FLOAT, ["batch", 3]) == found["output_0"]
    assert "batch" == found["output_1"][1][0]


def test_bytes_become_numbers_in_the_layout_that_torch_takes(tmp_path: Path) -> None:
    data = images(tmp_path, image=np.random.default_rng(0).integers(0, 255, (9, 6, 5, 3)).astype(np.uint8))
    found = ports(converted(scripted(), tmp_path, data, Preprocess(layout="NHWC", scale=255)))
    assert (onnx.TensorProto.FLOAT, ["batch", 3, 6, 5]) == found["image"]


def test_a_module_for_one_batch_size_keeps_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((20, 5)))
    module = torch.jit.script(Fixed().eval())
    found = ports(converted(module, tmp_path, tmp_path / "data.npz"))
    assert {"x": (1, [4, 5]), "output": (1, [4, 3])} == found


def refusal(path: Path, folder: Path, data: Path | None = None) -> EspalierError:
    with pytest.raises(EspalierError) as caught:
        to_onnx(path, "net.pt", data or images(folder), Preprocess(), 1 << 30, folder)
    assert not (folder / "torchscript.onnx").exists()
    return caught.value


def test_without_data_or_trust_it_says_what_is_needed(tmp_path: Path) -> None:
    path = save(scripted(), tmp_path)
    with pytest.raises(EspalierError) as caught:
        to_onnx(path, "net.pt", None, Preprocess(), 1 << 30, tmp_path)
    assert "calibration_required" == caught.value.code
    inputs = Inputs(as_input(path), {}, as_input(images(tmp_path)), None)
    with pytest.raises(EspalierError) as caught:
        prune(parse_options(HALF), inputs, tmp_path, Limits(1, 1 << 30), lambda _: None)
    assert "torchscript_untrusted" == caught.value.code
    assert "--trust-torchscript" in caught.value.failure.detail
    assert "torch.onnx.export" in caught.value.failure.hint


def test_operators_without_a_form_are_all_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((20, 3, 3)))
    module = torch.jit.trace(Spectrum(), torch.randn(2, 3, 3), check_trace=False)
    error = refusal(save(module, tmp_path), tmp_path, tmp_path / "data.npz")
    assert "torchscript_refused" == error.code
    assert "torch.fft_rfft" in error.failure.detail
    assert "torch.linalg_eigvalsh" in error.failure.detail


def test_a_module_in_training_mode_is_found_out(tmp_path: Path) -> None:
    module = torch.jit.trace(Net().train(), torch.zeros(2, 3, 6, 6), check_trace=False)
    error = refusal(save(module, tmp_path), tmp_path)
    assert "model.eval()" in error.failure.hint


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = save(scripted(), tmp_path)
    wrong = refusal(path, tmp_path, images(tmp_path, image=np.ones((9, 4, 6, 6))))
    assert "model_does_not_run" == wrong.code
    assert "channels" in wrong.failure.detail
    unknown = refusal(path, tmp_path, images(tmp_path, other=np.ones((60, 3, 6, 6))))
    assert "data_input_unknown" == unknown.code


# ---- archives by strangers


def rebuilt(path: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> Path:
    """The archive with other contents; None leaves a member out."""
    target = path.parent / "changed.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as sink:
        for info in source.infolist():
            content = change(info.filename.partition("/")[2], source.read(info))
            if content is not None:
                sink.writestr(info.filename, content)
        for name, content in more.items():
            sink.writestr(f"net/{name}", content)
    return target


def with_code(path: Path, extra: str, *, into: str = "code/__torch__") -> Path:
    """The archive with a method more in its last class."""

    def change(name: str, content: bytes) -> bytes:
        return content + extra.encode() if name.startswith(into) and name.endswith(".py") else content

    return rebuilt(path, change)


class Leaves(nn.Module):
    """Writes a file while it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0] + torch.from_file("written", True, 4).sum()
        self.training = state[1]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.weight.sum()


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.out(image) + torch.from_file("/etc/passwd", False, 1).sum()


def test_a_module_that_writes_while_it_is_loaded_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(torch.jit.script(Leaves()), tmp_path)
    # The seeded fault: torch itself would have let it.
    torch.jit.load(str(path))
    assert (tmp_path / "written").exists()
    (tmp_path / "written").unlink()
    error = refusal(path, tmp_path)
    assert "__setstate__" in error.failure.detail
    assert "torch.from_file" in error.failure.detail
    assert not (tmp_path / "written").exists()


def test_a_module_that_reads_files_is_not_loaded(tmp_path: Path) -> None:
    error = refusal(save(torch.jit.script(Reads().eval()), tmp_path), tmp_path)
    assert "torch.from_file" in error.failure.detail


TRICKS = {
    "an alias": "  def f(self: __torch__.Net, x: Tensor) -> Tensor:\n    g = torch.from_file\n    return g(x)\n",
    "an attribute": "  def f(self: __torch__.Net, x: str) -> Tensor:\n    return x.from_file(True, 4)\n",
    "getattr": '  def f(self: __torch__.Net, x: str) -> Tensor:\n    return getattr(x, "from_file")(True, 4)\n',
    "ops": "  def f(self: __torch__.Net, x: str) -> Tensor:\n    return ops.aten.from_file(x, True, 4)\n",
    "a namespace": "  def f(self: __torch__.Net, x: Tensor) -> Tensor:\n    return ops.mylib.run(x)\n",
    "a custom class": "  def f(self: __torch__.torch.classes.a.B, x: Tensor) -> Tensor:\n    return x\n",
    "a shadow": "  def f(self: __torch__.Net, torch: Tensor) -> Tensor:\n    return torch\n",
    "a comment": "  # type: (Tensor) -> Tensor\n",
    "a string": "  def f(self: __torch__.Net) -> str:\n    return 'x'\n",
    "a long string": '  def f(self: __torch__.Net) -> str:\n    return """x"""\n',
    "an f-string": '  def f(self: __torch__.Net, x: str) -> str:\n    return f"{x}"\n',
    "a continued line": "  def f(self: __torch__.Net, x: Tensor) -> Tensor:\n    return \\\n    x\n",
    "a lambda": "  def f(self: __torch__.Net, x: Tensor) -> Tensor:\n    return (lambda: x)()\n",
    "a decorator": "  @torch.jit.export\n  def f(self: __torch__.Net, x: Tensor) -> Tensor:\n    return x\n",
    "a call in a type": "  def f(self: __torch__.Net, x: torch.from_file()) -> Tensor:\n    return x\n",
    "an import": "import os\n",
    "a fork": "  def f(self: __torch__.Net, x: Tensor) -> Tensor:\n    return fork(self.f, x)\n",
    "a statement": "torch.from_file\n",
    "not ASCII": "  def f(self: __torch__.Net, \u00e9: Tensor) -> Tensor:\n    return \u00e9\n",
    "no Python": "  def f(\n",
    "a tab": "  def f(self: __torch__.Net, x: Tensor) -> Tensor:\n    return\tx\n",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_code_that_torch_does_not_write_is_not_loaded(trick: str, tmp_path: Path) -> None:
    error = refusal(with_code(save(scripted(), tmp_path), TRICKS[trick], into="code/__torch__"), tmp_path)
    assert "torchscript_refused" == error.code, error


def test_names_are_resolved_once_more_in_the_compiled_graph(tmp_path: Path) -> None:
    """A method may be called as an operator is; whether it is one shows only in the compiled graph."""
    assert not operator_allowed("digamma")

    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.digamma = nn.Linear(6, 6)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.digamma(image)

    path = save(torch.jit.trace(Tail(), torch.zeros(2, 3, 6, 6), check_trace=False), tmp_path)

    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"(digamma).forward(image, )", b"image.digamma()") if name.endswith(".py") else content

    error = refusal(rebuilt(path, change), tmp_path)
    assert "aten::digamma" in error.failure.detail


def unchanged(_: str, content: bytes) -> bytes:
    return content


def test_archives_that_are_not_what_torch_writes_are_refused(tmp_path: Path) -> None:
    path = save(traced(), tmp_path)
    mobile = rebuilt(path, unchanged, **{"bytecode.pkl": b"x"})
    assert "mobile" in refusal(mobile, tmp_path).failure.detail
    bomb = rebuilt(path, unchanged, **{"data/bomb": bytes(200 << 20)})
    shrunk = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb) as source, zipfile.ZipFile(shrunk, "w", zipfile.ZIP_DEFLATED) as sink:
        for info in source.infolist():
            sink.writestr(info.filename, source.read(info))
    assert "unpack" in refusal(shrunk, tmp_path).failure.detail
    outside = rebuilt(path, unchanged, **{"data/../../x": b"x"})
    assert "outside" in refusal(outside, tmp_path).failure.detail
    gone = rebuilt(path, lambda name, content: None if name == "constants.pkl" else content)
    assert "constants.pkl" in refusal(gone, tmp_path).failure.detail
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:-30])
    assert not is_torchscript(cut)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = save(traced(), tmp_path)
    twice = rebuilt(path, unchanged, **{"version": b"3"})
    assert "twice" in refusal(twice, tmp_path).failure.detail


@pytest.mark.parametrize(
    "pickled",
    [b"\x80\x02cos\nsystem\nq\x00.", b"\x80\x02c__torch__.torch.classes.a\nB\nq\x00.", b"\x80\x04\x8c\x02os.", b"("],
)
def test_pickles_that_name_anything_else_are_refused(pickled: bytes, tmp_path: Path) -> None:
    path = save(traced(), tmp_path)
    changed = rebuilt(path, lambda name, content: pickled if name == "data.pkl" else content)
    assert "torchscript_refused" == refusal(changed, tmp_path).code


def test_nothing_that_the_exporter_prints_gets_out(tmp_path: Path) -> None:
    """Where an operator has no form, torch prints the whole graph to standard output."""

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.take(x, torch.zeros(2, dtype=torch.long)).sum() + x.scatter_reduce(
                0, torch.zeros(3, 3, dtype=torch.long), x, "prod", include_self=False
            )

    np.savez(tmp_path / "data.npz", x=np.ones((20, 3)))
    path = save(torch.jit.script(Odd()), tmp_path)
    command = [sys.executable, "-m", "worker.engine", "--model", str(path), "--workdir", str(tmp_path / "work")]
    command += ["--calibration", str(tmp_path / "data.npz"), "--threads", "1", "--options", json.dumps(HALF)]
    quiet = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 3 == quiet.returncode
    assert "torchscript_untrusted" == json.loads(quiet.stdout.splitlines()[-1])["failure"]["code"]
    loud = subprocess.run([*command, "--trust-torchscript"], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in loud.stdout.splitlines()]
    assert lines[-1]["failure"]["code"] in ("torchscript_refused", "model_does_not_run"), lines[-1]
    assert "graph(" not in loud.stdout + loud.stderr


def test_the_output_is_back_afterwards(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    converted(scripted(), tmp_path, images(tmp_path))
    os.write(1, b"heard")
    assert "heard" == capfd.readouterr().out
    assert open_before == len(list(Path("/proc/self/fd").iterdir()))


def test_scripted_modules_of_every_kind_that_is_common_pass_the_reader(tmp_path: Path) -> None:
    nets = {
        "dictionary": nn.ModuleDict({"a": nn.Linear(6, 6)})["a"],
        "list": nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))),
        "gelu": nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.LayerNorm(6)),
        "rms": nn.Sequential(nn.RMSNorm(6), nn.RMSNorm((6, 6), eps=1e-3), nn.Linear(6, 2)),
        "pool": nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "upsample": nn.Sequential(nn.Upsample(scale_factor=2.0), nn.Hardswish()),
        "softmax": nn.Sequential(nn.Softmax(-1), nn.SiLU()),
        "transposed": nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Sigmoid()),
    }
    for name, net in nets.items():
        module = torch.jit.script(net.eval())
        data = tmp_path / f"{name}.npz"
        np.savez(data, x=np.random.default_rng(0).normal(size=(9, 3, 6, 6)))
        onnx.checker.check_model(converted(module, tmp_path, data))


class Attending(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.into, self.inner, self.out = nn.Linear(6, 16), inner, nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.into(x)
        if isinstance(self.inner, nn.MultiheadAttention):
            mixed, shares = self.inner(rows, rows, rows)
            return self.out(mixed) * shares.amax(-1, keepdim=True)
        return self.out(self.inner(rows))


FUSED: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: nn.MultiheadAttention(16, 4, batch_first=True),
    "layer": lambda: nn.TransformerEncoderLayer(16, 4, 24, batch_first=True),
    "norm_first": lambda: nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True, activation="gelu"),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_is_exported_in_plain_operators(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with torch.no_grad():  # this is when torch takes the fused forms
        module = torch.jit.trace(Attending(FUSED[name]()).eval(), torch.randn(2, 5, 6), check_trace=False)
    assert "_fwd" in str(module.inlined_graph) or "_native_multi" in str(module.inlined_graph)
    np.savez(tmp_path / "calibration.npz", x=np.random.default_rng(0).normal(size=(40, 5, 6)).astype(np.float32))
    inputs = Inputs(as_input(save(module, tmp_path)), {}, as_input(tmp_path / "calibration.npz"), None)
    report = prune(parse_options(HALF), inputs, tmp_path, Limits(1, 1 << 30, torchscript=True), lambda _: None)
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    assert 4 in [group.units_before for group in report.groups]  # the heads


def test_scripted_attention_is_refused_with_the_way_round(tmp_path: Path) -> None:
    module = torch.jit.script(Scriptable().eval())
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(20, 5, 8)).astype(np.float32))
    error = refusal(save(module, tmp_path), tmp_path, tmp_path / "data.npz")
    assert "torchscript_refused" == error.code
    assert "torch.jit.trace(model.eval()" in error.failure.hint


class Scriptable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attend(x, x, x)[0]


def test_a_stream_is_no_archive(tmp_path: Path) -> None:
    sink = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, sink)
    path = tmp_path / "weights.pt"
    path.write_bytes(sink.getvalue())
    assert not is_torchscript(path)
