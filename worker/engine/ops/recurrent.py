"""LSTM, GRU and RNN: a hidden unit is one index in every gate, in the states and in the outputs.

A unit's incoming weights are its rows in W and R. It is read by whatever reads the outputs, and by the operator itself
through the columns of R: a removed unit feeds nobody, so in the masked model those columns are zero. Both directions
of a bidirectional layer share one hidden axis and lose the same indices. Directions, samples and steps stay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch

from worker.engine.graph import Op
from worker.engine.ops.rule import Follow, NoTorchForm, Rule, ShapeOf, Tensors, given, optional
from worker.engine.ties import Ties

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
STATES = (5, 6)  # input slots of initial_h and initial_c
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def tie(op: Op, ties: Ties) -> None:
    x, w, r = op.inputs[:3]
    outputs = [(name, len(ties.shape(name)) - 1) for name in op.outputs if name]
    hidden = [axis for axis in outputs if axis[0] in op.outputs[:2]]
    units = ties.points((r, 2))
    blocks = [(w, 1), (r, 1), *((op.input(slot), 1) for slot in (3, 7) if op.input(slot))]
    states = [(op.input(slot), 2) for slot in STATES if op.input(slot)]
    for axis in (*blocks, *states, *outputs):
        points = ties.points(axis).reshape(-1, len(units))  # one row for each gate
        ties.tie_points(points, units[None].repeat(len(points), axis=0))
        ties.speak(axis)
    ties.tie((x, 2), (w, 2))
    ties.speak((r, 2))
    ties.consume(op, 0, 2, w, 2)
    if hidden:
        ties.consume(op, 2, 2, r, 2, state=hidden[0])
    else:  # nobody sees what the columns of R are multiplied with: nothing can be handed over in them
        ties.consume(op, 2, 2, state=outputs[0])
    ties.produce(op, w, 1, parts=GATES[op.key])
    ties.produce(op, r, 1, parts=GATES[op.key])


def follow(op: Op, ties: Ties, after: ShapeOf) -> Follow:
    hidden = after(op.inputs[2])[2]
    return Follow(attrs={"hidden_size": hidden}) if hidden != ties.shape(op.inputs[2])[2] else Follow()


def macs(op: Op, shape: ShapeOf) -> int:
    return prod(shape(op.inputs[0])[:2]) * (prod(shape(op.inputs[1])) + prod(shape(op.inputs[2])))


@dataclass(frozen=True, eq=False)
class Direction:
    """The weights of one direction. `w_bias` and `r_bias`: (gates * hidden,)."""

    r: torch.Tensor  # (gates * hidden, hidden)
    w_bias: torch.Tensor
    r_bias: torch.Tensor
    peepholes: torch.Tensor | None  # (3 * hidden,)
    linear_before_reset: bool


State = tuple[torch.Tensor, torch.Tensor]  # hidden and cell: (samples, hidden)
Cell = Callable[[Direction, torch.Tensor, State], State]


def lstm_step(weights: Direction, x: torch.Tensor, state: State) -> State:
    h, c = state
    i, o, f, g = (x + weights.w_bias + h @ weights.r.T + weights.r_bias).chunk(4, dim=-1)
    if weights.peepholes is not None:
        pi, po, pf = weights.peepholes.chunk(3)
        i, f = i + pi * c, f + pf * c
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        o = o + po * c
    else:
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_step(weights: Direction, x: torch.Tensor, state: State) -> State:
    h, c = state
    size = h.shape[-1]
    own = x + weights.w_bias
    rzr, rh = weights.r[: 2 * size], weights.r[2 * size :]
    bias_zr, bias_h = weights.r_bias[: 2 * size], weights.r_bias[2 * size :]
    z, reset = torch.sigmoid(own[..., : 2 * size] + h @ rzr.T + bias_zr).chunk(2, dim=-1)
    read = reset * (h @ rh.T + bias_h) if weights.linear_before_reset else (reset * h) @ rh.T + bias_h
    return (1 - z) * torch.tanh(own[..., 2 * size :] + read) + z * h, c


def rnn_step(weights: Direction, x: torch.Tensor, state: State) -> State:
    h, c = state
    return torch.tanh(x + weights.w_bias + h @ weights.r.T + weights.r_bias), c


CELLS: dict[str, Cell] = {"LSTM": lstm_step, "GRU": gru_step, "RNN": rnn_step}


def _plain(op: Op) -> bool:
    """Default activations, no clipping, no lengths: what torch computes here."""
    given_names = op.node.attributes.get("activations")
    names = tuple(given_names.as_strings()) if given_names is not None else ()
    count = len(DIRECTIONS[op.text("direction", "forward")])
    usual = names in ((), DEFAULT_ACTIVATIONS[op.key] * count)
    return usual and "clip" not in op.attrs and not op.input(4) and not op.integer("input_forget", 0)


def _walk(cell: Cell, weights: Direction, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
    """All steps: x (steps, samples, gates * hidden) -> hidden states (steps, samples, hidden) and the last state."""
    steps = []
    for step in x:
        state = cell(weights, step, state)
        steps.append(state[0])
    return torch.stack(steps), state


@dataclass(frozen=True)
class Product:
    """One plain product inside a layer: rows of its weights times the input, the state before, or both side by side.
    `reset`: the state has been multiplied by the reset gate."""

    start: int
    stop: int
    of_input: bool = True
    of_state: bool = True
    reset: bool = False

    @property
    def bias(self) -> int:
        """Which half of B adds to it."""
        return 0 if self.of_input else 1


def products(op: Op, hidden: int) -> tuple[Product, ...]:
    """What a layer's weights compute before anything bends; () where it runs outside torch."""
    if not _plain(op):
        return ()
    if op.key != "GRU":
        return (Product(0, GATES[op.key] * hidden),)
    gates, own = Product(0, 2 * hidden), (2 * hidden, 3 * hidden)
    if op.integer("linear_before_reset", 0):
        return gates, Product(*own, of_state=False), Product(*own, of_input=False)
    return gates, Product(*own, reset=True)


def by_step(op: Op, x: torch.Tensor) -> torch.Tensor:
    """The input with its steps in front."""
    return x.transpose(0, 1) if op.integer("layout", 0) else x


def states(op: Op, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The state before each step and behind it, in each direction: twice (directions, steps, samples, hidden)."""
    after = compute(op, tensors)[0]
    after = after.permute(2, 1, 0, 3) if op.integer("layout", 0) else after.transpose(0, 1)
    first = optional(tensors, STATES[0])
    if first is None:
        first = torch.zeros_like(after[:, 0])
    elif op.integer("layout", 0):
        first = first.transpose(0, 1)
    before = torch.empty_like(after)
    for number, backwards in enumerate(DIRECTIONS[op.text("direction", "forward")]):
        own = after[number].flip(0) if backwards else after[number]
        shifted = torch.cat([first[number][None], own[:-1]])
        before[number] = shifted.flip(0) if backwards else shifted
    return before, after


def compute(op: Op, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    if not _plain(op):
        raise NoTorchForm
    x, w, r = (given(tensors, slot) for slot in range(3))
    bias, peepholes = optional(tensors, 3), optional(tensors, 7)
    samples_first = bool(op.integer("layout", 0))
    if samples_first:
        x = x.transpose(0, 1)
    if not len(x):
        raise NoTorchForm
    hidden = r.shape[2]
    empty = x.new_zeros(len(r), x.shape[1], hidden)
    first = [empty if (one := optional(tensors, slot)) is None else one for slot in STATES]
    first = [one.transpose(0, 1) if samples_first and one is not empty else one for one in first]
    results = []
    for number, backwards in enumerate(DIRECTIONS[op.text("direction", "forward")]):
        w_bias, r_bias = (x.new_zeros(2, w.shape[1]) if bias is None else bias[number].reshape(2, -1)).unbind()
        own = None if peepholes is None else peepholes[number]
        weights = Direction(r[number], w_bias, r_bias, own, bool(op.integer("linear_before_reset", 0)))
        projected = (x.flip(0) if backwards else x) @ w[number].T
        steps, last = _walk(CELLS[op.key], weights, projected, (first[0][number], first[1][number]))
        results.append((steps.flip(0) if backwards else steps, *last))
    y, h, c = (torch.stack(parts, dim=dim) for parts, dim in zip(zip(*results, strict=True), (1, 0, 0), strict=True))
    if samples_first:
        y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
    return (y, h, c) if op.key == "LSTM" else (y, h)


RULES = {key: Rule(tie=tie, compute=compute, macs=macs, follow=follow) for key in GATES}
