"""Karnin's sensitivity of every weight of a model, from the history of its training.

In: a history and a graph. Out: `Sensitivities`: asked for a weight by the name of its initializer it gives, in the
weight's own layout, `sum_n dw(n)^2 * w_f / (eta * (w_f - w_i))` (Karnin 1990), and 0 where a weight ended where it
began. An initializer is found by its name or, because exporters rename and transpose, by its values at the end of the
training. Refused: a weight that is not in the history, or is there with other values (`history_does_not_match`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from schemas.criteria import Criterion, Karnin
from schemas.errors import EspalierError
from worker.engine.data.history import WHERE, History
from worker.engine.graph import Graph
from worker.engine.observe import Float
from worker.engine.quantised import real

CLOSE = 0.01  # of the largest weight: half precision and int8 are weights of the same training, another epoch is not
NAMES_SHOWN = 10
LARGEST = 1e150  # the sums of these, over any layer, are still numbers


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """`learning_rate` is the caller's; the history's own where the caller gives none, and 1 where nobody does."""

    history: History
    graph: Graph
    learning_rate: float | None

    def __call__(self, weight: str) -> Float:
        """Of one initializer that is a weight."""
        name, turned = self._found(weight)
        parts = (self.history.initial[name], self.history.sums[name], self.history.final[name])
        initial, sums, final = (part.T if turned else part for part in parts)
        moved = final - initial
        rate = self.learning_rate or self.history.learning_rate or 1.0
        with np.errstate(all="ignore"):  # looked at right below
            found: Float = np.divide(sums * final, rate * moved, out=np.zeros_like(final), where=moved != 0)
        if not (np.abs(found) < LARGEST).all():
            detail = f"the sensitivities of {weight} are too large for any number (learning rate {rate:g})"
            raise EspalierError("history_invalid", detail, where=WHERE, hint="Check the history and the learning rate.")
        return found

    def _found(self, weight: str) -> tuple[str, bool]:
        """The history's name of a weight, and whether it is transposed there."""
        values = real(self.graph, weight)
        best = np.inf
        for name, turned in self._candidates(weight, values.shape):
            final = self.history.final[name].T if turned else self.history.final[name]
            apart = float(np.abs(final - values).max(initial=0.0))
            if apart <= CLOSE * float(np.abs(values).max(initial=0.0)):
                return name, turned
            best = apart if name == weight else best
        shape = "x".join(map(str, values.shape))
        if np.isfinite(best):
            detail = f"{weight} ({shape}) ends in the history up to {best:.3g} away from the model's values"
            raise EspalierError("history_does_not_match", detail, where=weight, hint=ANOTHER)
        listed = [f"{name} ({'x'.join(map(str, one.shape))})" for name, one in self.history.final.items()]
        shown = ", ".join(listed[:NAMES_SHOWN]) + (", ..." if len(listed) > NAMES_SHOWN else "")
        detail = f"no weight in it ends as {weight} ({shape}) of the model; it holds {shown}"
        raise EspalierError("history_does_not_match", detail, where=weight)

    def _candidates(self, weight: str, shape: tuple[int, ...]) -> Iterator[tuple[str, bool]]:
        """Weights of the same shape, also transposed, the one of the same name first."""
        for name in sorted(self.history.final, key=lambda one: one != weight):
            have = self.history.final[name].shape
            if have == shape:
                yield name, False
            if have == shape[::-1] and len(shape) > 1:
                yield name, True


ANOTHER = f"Send the {WHERE} of the training that the model came out of, its last epoch included."


def sensitivities(criterion: Criterion, history: History | None, graph: Graph) -> Sensitivities | None:
    """For a criterion that asks for them. Refused: a formula whose eta nobody gave, where it does not cancel out."""
    if not isinstance(criterion, Karnin) or history is None:
        return None
    if criterion.normalise == "none" and criterion.learning_rate is None and history.learning_rate is None:
        raise EspalierError(
            "history_invalid",
            "it holds no learning_rate, and without normalisation the sensitivity depends on it",
            where=WHERE,
            hint="Set criterion.learning_rate, or leave criterion.normalise at its default.",
        )
    return Sensitivities(history, graph, criterion.learning_rate)
