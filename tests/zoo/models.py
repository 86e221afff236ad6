"""The zoo: every network with the shapes of its inputs, and how a module becomes an ONNX file.

In: a name and a way to export it. Out: the bytes of the file. Weights are seeded; statistics of BatchNormalization
are made up, so that no two channels are alike.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tests.zoo import convolutional as c
from tests.zoo import sequential as s

Exporter = Literal["script", "dynamo"]
IMAGE = (3, 16, 16)
TRACED = 2  # the batch in the example; one would be taken for a constant


@dataclass(frozen=True)
class Entry:
    """A network. `inputs` are the shapes of one sample; `tokens` makes the inputs whole numbers below it."""

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...] = (IMAGE,)
    tokens: int = 0

    def feeds(self, samples: int, seed: int = 1) -> list[npt.NDArray[np.generic]]:
        rng = np.random.default_rng(seed)
        if self.tokens:
            return [rng.integers(0, self.tokens, (samples, *shape)) for shape in self.inputs]
        return [rng.standard_normal((samples, *shape)).astype(np.float32) for shape in self.inputs]


SERIES = ((5, 4),)
ZOO: dict[str, Entry] = {
    "plain_cnn": Entry(c.plain_cnn),
    "vgg_bn": Entry(c.vgg_bn),
    "resnet_basic": Entry(c.resnet_basic),
    "resnet_bottleneck": Entry(c.resnet_bottleneck),
    "resnet_option_a": Entry(c.resnet_option_a),
    "mobilenet_v2": Entry(c.mobilenet_v2),
    "shufflenet": Entry(c.shufflenet),
    "densenet": Entry(c.densenet),
    "inception": Entry(c.inception),
    "efficientnet": Entry(c.efficientnet),
    "resnext": Entry(c.resnext),
    "convnext": Entry(c.convnext),
    "unet": Entry(c.UNet),
    "yolo": Entry(c.Yolo),
    "yolo_decoded": Entry(c.Decoded),
    "pixel_shuffle": Entry(c.pixel_shuffle),
    "autoencoder": Entry(c.autoencoder),
    "cnn_1d": Entry(c.cnn_1d, ((4, 12),)),
    "rnn": Entry(s.rnn, SERIES),
    "lstm": Entry(s.lstm, SERIES),
    "gru": Entry(s.gru, SERIES),
    "bi_lstm": Entry(s.bi_lstm, SERIES),
    "stacked_lstm": Entry(s.stacked_lstm, SERIES),
    "stacked_bi_gru": Entry(s.stacked_bi_gru, SERIES),
    "conv_lstm": Entry(s.ConvLstm, ((4, 6),)),
    "bert": Entry(s.Bert, ((6,),), tokens=20),
    "torch_encoder": Entry(s.TorchEncoder, SERIES),
    "vit": Entry(s.ViT),
    "swin": Entry(s.Swin),
    "gated_mlp": Entry(s.GatedMlp, ((6,),)),
    "mlp": Entry(s.mlp, ((6,),)),
    "two_inputs": Entry(s.TwoInputs, (IMAGE, (4,))),
    "two_outputs": Entry(s.TwoOutputs),
    "shared": Entry(s.Shared, ((6,), (6,))),
}


def seeded(entry: Entry) -> nn.Module:
    """The module in evaluation mode, with weights and statistics that depend on nothing but the code."""
    torch.manual_seed(0)
    module = entry.build().eval()
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.uniform_(-0.3, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            with torch.no_grad():
                part.weight.uniform_(0.7, 1.3, generator=generator)
                part.bias.uniform_(0.0, 0.6, generator=generator)  # few units that never fire
    return module


@dataclass(frozen=True)
class Way:
    """How a module becomes a file. Without `fold` the older exporter keeps BatchNormalization and all names."""

    exporter: Exporter
    opset: int
    fold: bool = True
    open_batch: bool = True

    def __str__(self) -> str:
        return f"{self.exporter}{self.opset}{'' if self in WAYS else '+'}"


WAYS = (
    Way("script", 13, fold=False),
    Way("script", 17),
    Way("script", 20, open_batch=False),
    Way("dynamo", 20),
)
MORE_WAYS = (Way("dynamo", 18), Way("script", 17, fold=False, open_batch=False))  # for a few
CANNOT = {("torch_encoder", "script13")}  # the exporter has no scaled dot product attention for that opset


def export(name: str, way: Way) -> bytes:
    """The file, as a user's own export would write it."""
    entry = ZOO[name]
    module = seeded(entry)
    # In the example an open batch is two: one would be taken for a constant.
    example = tuple(torch.from_numpy(one) for one in entry.feeds(2 if way.open_batch else 1))
    names = [f"in{index}" for index in range(len(example))]
    outputs = ["out0", "out1"] if name == "two_outputs" else ["out0"]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
        warnings.simplefilter("ignore")  # the exporters warn of their own deprecations and of traced sizes
        written = _script if way.exporter == "script" else _dynamo
        return written(module, example, names, outputs, way)


Example = tuple[torch.Tensor, ...]


def _script(module: nn.Module, example: Example, names: list[str], outputs: list[str], way: Way) -> bytes:
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        example,
        buffer,
        dynamo=False,
        opset_version=way.opset,
        input_names=names,
        output_names=outputs,
        dynamic_axes={one: {0: "N"} for one in (*names, *outputs)} if way.open_batch else None,
        do_constant_folding=way.fold,
        training=torch.onnx.TrainingMode.EVAL if way.fold else torch.onnx.TrainingMode.PRESERVE,
    )
    return buffer.getvalue()


def _dynamo(module: nn.Module, example: Example, names: list[str], outputs: list[str], way: Way) -> bytes:
    batch = torch.export.Dim("N", min=1, max=1024)
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        opset_version=way.opset,
        input_names=names,
        output_names=outputs,
        dynamic_shapes=tuple({0: batch} for _ in example) if way.open_batch else None,
        verbose=False,
    )
    assert program is not None
    return program.model_proto.SerializeToString()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters log through `logging`, too."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
