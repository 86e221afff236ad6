"""Whose fault an exception is that nobody foresaw: the uploaded model's, or ours.

In: the model as uploaded and, where there are any, samples. Out: nothing. Refused: a model that onnxruntime does not
load or run either, as `model_does_not_run` in its words. What onnxruntime runs is a defect of ours, and the exception
goes on as it came.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import EspalierError
from worker.engine import evaluate
from worker.engine.data import Samples
from worker.engine.load import Loaded


@contextmanager
def blamed(loaded: Loaded, samples: Samples | None = None) -> Iterator[None]:
    """Around what follows the model operator by operator: attributes and sizes that no runtime takes can break it
    anywhere, and a check of each in each place would be a second onnxruntime."""
    try:
        yield
    except (EspalierError, MemoryError):
        raise
    except Exception:
        refuse_what_does_not_run(loaded, samples)
        raise


def refuse_what_does_not_run(loaded: Loaded, samples: Samples | None) -> None:
    """onnxruntime's verdict on the model as uploaded."""
    model = evaluate.session(loaded.shelf.save(loaded.proto, "uploaded.onnx"))
    if samples is not None and samples.count:
        batch = evaluate.fixed_batch(model)
        one = evaluate.pad(samples.rows(0, 1), batch)
        evaluate.run(model, one, [port.name for port in model.get_outputs()])
