"""The judge: what a model does, measured in onnxruntime on the bytes that the user will fetch.

`runtime` runs models, `task` decides what is judged, `score` counts.
"""

from worker.engine.evaluate.profile import milliseconds_by_node
from worker.engine.evaluate.runtime import (
    Session,
    by_row,
    chunk_rows,
    fixed_batch,
    latency_ms,
    outputs,
    pad,
    run,
    session,
)
from worker.engine.evaluate.score import Reference, score
from worker.engine.evaluate.task import OutputInfo, Task, resolve_task

__all__ = [
    "OutputInfo",
    "Reference",
    "Session",
    "Task",
    "by_row",
    "chunk_rows",
    "fixed_batch",
    "latency_ms",
    "milliseconds_by_node",
    "outputs",
    "pad",
    "resolve_task",
    "run",
    "score",
    "session",
]
