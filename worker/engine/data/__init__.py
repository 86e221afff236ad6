"""Calibration and evaluation data: from hostile files to three disjoint sets of samples.

`files` reads arrays, `samples` fits them to the model's inputs, `preprocess` scales them, `split` parts them.
"""

from worker.engine.data.read import read_samples
from worker.engine.data.samples import InputSpec, Samples
from worker.engine.data.split import Split, split

__all__ = ["InputSpec", "Samples", "Split", "read_samples", "split"]
