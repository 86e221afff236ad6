"""Parts the samples, once, into fit, held back and evaluation: three sets that share no row.

In: the calibration and evaluation samples that were sent, and the seed. Out: `Split`. Refused: an evaluation file whose
every row is also a calibration row. Rows are compared by a hash over all inputs, labels left aside.

The order inside each set is the permutation's, so that any prefix of a set is a fair sample of it.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EspalierError
from schemas.report import DataUse
from worker.engine.data.samples import Samples

FEWEST = 5  # below this a fifth is less than one sample
FIFTHS_HELD_BACK = 1
FIFTHS_EVALUATION = 1


@dataclass(frozen=True)
class Split:
    """Disjoint sets; None where there is not one sample for it."""

    fit: Samples | None
    held_back: Samples | None
    evaluation: Samples | None
    use: DataUse


def split(calibration: Samples | None, evaluation: Samples | None, seed: int) -> Split:
    """The three sets. Without an evaluation file the calibration samples give 60/20/20, with one 80/20."""
    if calibration is None:
        return _only_evaluation(evaluation)
    hashes = _hashes(calibration)
    first = np.array(sorted({digest: i for i, digest in reversed(list(enumerate(hashes)))}.values()), np.intp)
    order = first[np.random.default_rng(seed).permutation(len(first))]
    judged, shared = evaluation, 0
    if evaluation is None:
        cut = len(order) * FIFTHS_EVALUATION // 5
        judged = calibration.take(order[:cut]) if cut else None
        order = order[cut:]
        held = cut
    else:
        judged, shared = _without_rows(evaluation, frozenset(hashes))
        held = len(order) * FIFTHS_HELD_BACK // 5
    fit, held_back = order[held:], order[:held]
    use = DataUse(
        calibration_samples=calibration.count,
        fit_samples=len(fit),
        held_back_samples=len(held_back),
        evaluation_samples=judged.count if judged else 0,
        duplicates_dropped=calibration.count - len(first),
        shared_dropped=shared,
        labels=judged is not None and judged.labels is not None,
        how=_how(len(first), evaluation is not None, calibration.count - len(first), shared),
    )
    return Split(calibration.take(fit), calibration.take(held_back) if held else None, judged, use)


def _only_evaluation(evaluation: Samples | None) -> Split:
    use = DataUse(
        calibration_samples=0,
        fit_samples=0,
        held_back_samples=0,
        evaluation_samples=evaluation.count if evaluation else 0,
        duplicates_dropped=0,
        shared_dropped=0,
        labels=evaluation is not None and evaluation.labels is not None,
        how="There was no calibration file; the evaluation file was used for the accuracies only."
        if evaluation
        else "There was no data.",
    )
    return Split(None, None, evaluation, use)


def _hashes(samples: Samples) -> list[bytes]:
    """One digest a row, over all inputs in the order of their names."""
    names = (name for name in sorted(samples.inputs) if samples.axis(name) is not None)
    arrays = [np.ascontiguousarray(samples.by_row(name)) for name in names]
    digests = []
    for row in range(samples.count):
        digest = blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[row : row + 1].tobytes())
        digests.append(digest.digest())
    return digests


def _without_rows(evaluation: Samples, known: frozenset[bytes]) -> tuple[Samples, int]:
    """The evaluation without rows that the calibration holds too, and how many those were."""
    fresh: NDArray[np.intp] = np.array([i for i, row in enumerate(_hashes(evaluation)) if row not in known], np.intp)
    dropped = evaluation.count - len(fresh)
    if not len(fresh):
        detail = f"all {evaluation.count:,} rows of the evaluation file are also calibration rows"
        hint = "Send other rows, or no evaluation file: then a fifth of the calibration is kept for it."
        raise EspalierError("data_empty", detail, where="evaluation", hint=hint)
    return (evaluation.take(fresh) if dropped else evaluation), dropped


def _how(distinct: int, with_file: bool, duplicates: int, shared: int) -> str:
    rows = f"{distinct:,} distinct calibration sample{'' if distinct == 1 else 's'}"
    if distinct < FEWEST:
        sentence = f"{rows}, too few to split: all were used to fit, none held back"
        sentence += ", and the evaluation file judged." if with_file else ", none left to judge with."
    elif with_file:
        sentence = f"{rows}, split by the seed: 80 % to fit, 20 % held back; the evaluation file judged."
    else:
        sentence = f"{rows}, split by the seed: 60 % to fit, 20 % held back, 20 % to judge."
    if duplicates:
        sentence += f" {duplicates:,} repeated calibration row{'' if duplicates == 1 else 's'} left out."
    if shared:
        sentence += f" {shared:,} evaluation row{'' if shared == 1 else 's'} left out: they are calibration rows too."
    return sentence
