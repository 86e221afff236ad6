"""Operators that sample a picture anew: Resize, Upsample, GridSample, AffineGrid, Col2Im. Samples and channels pass,
the picture's own axes stay."""

import numpy as np
import torch
import torch.nn.functional as F

from worker.engine.graph import Op
from worker.engine.ops.elementwise import tie_others
from worker.engine.ops.rule import Cut, Follow, NoTorchForm, Rule, Tensors, given, optional
from worker.engine.ops.sizes import follow_target, say_nothing, tie_target
from worker.engine.ties import Ties


def _scales(op: Op) -> int:
    """The slot of the scales; before opset 11 they come second."""
    return 1 if op.key == "Upsample" or op.opset < 11 else 2


def _takes_sizes(op: Op) -> bool:
    return op.key == "Resize" and bool(op.input(3))


def _unscaled(op: Op, ties: Ties, axis: int) -> bool:
    """Whether an axis is left as it is: a scale near one may keep the size, and moves what lies there."""
    if ties.size((op.inputs[0], axis)) != ties.size((op.outputs[0], axis)):
        return False
    scales = op.attrs.get("scales", ties.graph.constants.get(op.input(_scales(op))))
    return _takes_sizes(op) or (scales is not None and float(np.asarray(scales)[axis]) == 1.0)


def tie_resize(op: Op, ties: Ties) -> None:
    """Samples and channels pass where they are left as they are."""
    x, y = op.inputs[0], op.outputs[0]
    if "axes" in op.attrs or op.text("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return
    rank = len(ties.shape(x))
    tie_others(ties, x, y, {axis for axis in range(rank) if axis > 1 or not _unscaled(op, ties, axis)})
    if _takes_sizes(op):
        tie_target(op, ties, 3)
        return


def follow_resize(op: Op, ties: Ties, after: Cut) -> Follow:
    return follow_target(op, ties, after, 3) if _takes_sizes(op) else Follow()


def _plain(op: Op) -> bool:
    """What torch has a form for, among the modes, is what exporters write."""
    settings = ("antialias", "exclude_outside", "axes", "keep_aspect_ratio_policy", "extrapolation_value")
    return not any(name in op.attrs for name in settings)


def resize(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, sizes = given(tensors, 0), optional(tensors, 3)
    scales = optional(tensors, 1 if op.opset < 11 else 2)
    if x.ndim not in (3, 4, 5) or not _plain(op) or not x.is_floating_point():
        raise NoTorchForm
    if sizes is not None:
        target = [int(one) for one in sizes]
    elif scales is not None and scales.numel():
        target = [int(size * float(scale)) for size, scale in zip(x.shape, scales, strict=True)]
        exact = all(
            abs(new - size * float(scale)) < 1e-6 for new, size, scale in zip(target, x.shape, scales, strict=True)
        )
        if not exact:  # coordinates then follow the scale as written, not the sizes
            raise NoTorchForm
    else:
        raise NoTorchForm
    if target[:2] != list(x.shape[:2]):
        raise NoTorchForm
    return (_interpolate(op, x, target[2:]),)


def _interpolate(op: Op, x: torch.Tensor, target: list[int]) -> torch.Tensor:
    mode = op.text("mode", "nearest")
    where = op.text("coordinate_transformation_mode", "half_pixel" if op.opset >= 11 else "asymmetric")
    linear = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    if mode == "nearest":
        grows = all(new % old == 0 for new, old in zip(target, x.shape[2:], strict=True))
        rounding = op.text("nearest_mode", "round_prefer_floor" if op.opset >= 11 else "floor")
        if where == "asymmetric" and rounding == "floor":
            return F.interpolate(x, target, mode="nearest")
        if where == "half_pixel" and grows:  # no coordinate lies half way then
            return F.interpolate(x, target, mode="nearest-exact")
        raise NoTorchForm
    one_pixel = any(new == 1 for new in target)
    corners = where == "align_corners"
    if where not in ("half_pixel", "pytorch_half_pixel", "align_corners") or (one_pixel and where != "half_pixel"):
        raise NoTorchForm
    if mode == "linear":
        return F.interpolate(x, target, mode=linear, align_corners=corners)
    if mode == "cubic" and x.ndim == 4 and op.number("cubic_coeff_a", -0.75) == -0.75:
        return F.interpolate(x, target, mode="bicubic", align_corners=corners)
    raise NoTorchForm


def upsample(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, scales = given(tensors, 0), optional(tensors, 1)
    if scales is None or op.text("mode", "nearest") != "nearest" or x.ndim not in (3, 4, 5):
        raise NoTorchForm
    target = [int(size * float(scale)) for size, scale in zip(x.shape, scales, strict=True)]
    if target[:2] != list(x.shape[:2]) or any(new % old for new, old in zip(target, x.shape, strict=True)):
        raise NoTorchForm
    return (F.interpolate(x, target[2:], mode="nearest"),)


def tie_sampled(op: Op, ties: Ties) -> None:
    """Each channel is sampled by itself, at the same places."""
    ties.tie((op.inputs[0], 0), (op.outputs[0], 0))
    ties.tie((op.inputs[0], 1), (op.outputs[0], 1))


def grid_sample(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x, grid = given(tensors, 0), given(tensors, 1)
    mode = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest"}.get(op.text("mode", "bilinear"))
    if mode is None or x.ndim not in (4, 5):
        raise NoTorchForm
    corners = bool(op.integer("align_corners", 0))
    return (F.grid_sample(x, grid, mode=mode, padding_mode=op.text("padding_mode", "zeros"), align_corners=corners),)


def affine_grid(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    size = [int(one) for one in given(tensors, 1)]
    return (F.affine_grid(given(tensors, 0), size, align_corners=bool(op.integer("align_corners", 0))),)


def col_to_im(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    x = given(tensors, 0)
    image, block = (tuple(int(one) for one in given(tensors, slot)) for slot in (1, 2))
    pads = op.ints("pads", (0, 0, 0, 0))
    if len(image) != 2 or pads[:2] != pads[2:]:
        raise NoTorchForm
    dilations, strides = op.ints("dilations", (1, 1)), op.ints("strides", (1, 1))
    return (F.fold(x, image, block, dilations, pads[:2], strides),)


RULES = {
    "Resize": Rule(tie=tie_resize, compute=resize, follow=follow_resize, passes=True),
    "Upsample": Rule(tie=tie_resize, compute=upsample, passes=True),
    "GridSample": Rule(tie=tie_sampled, compute=grid_sample),
    "AffineGrid": Rule(tie=say_nothing, compute=affine_grid),
    "Col2Im": Rule(tie=say_nothing, compute=col_to_im),
}
