"""SparseGPT (Frantar and Alistarh 2023): which weights of a layer go, and what the others become.

With H the damped Gram of the layer's inputs and U the upper triangular factor of its inverse (H^-1 = U'U), a weight in
column j costs `(w / U_jj)^2`, and once it is zero the columns to its right take over: `W_j: -= (w / U_jj) U_j:`.
"""

from dataclasses import dataclass

import numpy as np

from schemas.criteria import SparseGpt
from schemas.criteria.weights import Blocks, NOfM
from worker.engine.criteria.layers import LayerEvidence
from worker.engine.observe import Float
from worker.engine.patterns import Marks, Taking, mark, n_of_m


@dataclass(frozen=True)
class SparseGptSolver:
    parameters: SparseGpt

    def solve(self, layer: LayerEvidence, taking: Taking) -> Float:
        """The new weights: (rows, columns)."""
        assert layer.inputs is not None, "layers without inputs are passed over"
        grams = layer.inputs.gram
        assert grams is not None, "observed because the criterion says so"
        parts = np.split(layer.weights, len(grams))
        return np.concatenate([self._block(part, gram, taking) for part, gram in zip(parts, grams, strict=True)])

    def _block(self, weights: Float, gram: Float, taking: Taking) -> Float:
        """One group of a convolution, or the whole layer."""
        upper = self._factor(gram)
        w = weights.copy()
        step = self._step()
        for start in range(0, w.shape[1], step):
            end = min(start + step, w.shape[1])
            part, u = w[:, start:end], upper[start:end, start:end]
            errors = _sweep(part, u, taking)
            w[:, end:] -= errors @ upper[start:end, end:]
        return w

    def _factor(self, gram: Float) -> Float:
        damped = gram.copy()
        mean = float(np.diag(gram).mean()) or 1.0
        damped[np.diag_indices_from(damped)] += self.parameters.damping * mean
        inverse = np.linalg.inv(damped)
        del damped
        inverse += inverse.T
        inverse /= 2
        return np.asarray(np.linalg.cholesky(inverse).T, dtype=np.float64)

    def _step(self) -> int:
        """Columns looked at together: whole groups of a pattern."""
        pattern = self.parameters.pattern
        width = pattern.m if isinstance(pattern, NOfM) else pattern.cols if isinstance(pattern, Blocks) else 1
        return max(self.parameters.block_columns // width, 1) * width


def _sweep(w: Float, u: Float, taking: Taking) -> Float:
    """Zero what goes of some columns, in place, and make up for it inside them; what is left to make up for outside."""
    scale = np.diag(u)
    pattern = taking.pattern
    errors = np.zeros_like(w)
    goes: Marks = np.zeros(w.shape, dtype=bool)
    if not isinstance(pattern, NOfM):
        goes = mark({"": (w / scale) ** 2}, taking)[""]
    for j in range(w.shape[1]):
        if isinstance(pattern, NOfM) and j % pattern.m == 0:  # by what the columns have become on the way here
            here = slice(j, j + pattern.m)
            goes[:, here] = n_of_m((w[:, here] / scale[here]) ** 2, pattern)
        errors[:, j] = np.where(goes[:, j], w[:, j], 0.0) / scale[j]
        w[:, j:] -= np.outer(errors[:, j], u[j, j:])
        w[goes[:, j], j] = 0.0
    return errors
