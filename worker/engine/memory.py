"""Tells a failed allocation from the other failures of the libraries, which raise plain RuntimeErrors for it.

In: whatever torch or onnxruntime raised while running a model. Out: the failure it is, `job_out_of_memory` or
`model_does_not_run`, with the library's own words, shortened. Nothing is refused.
"""

from schemas.errors import EspalierError

SIGNS = ("allocate memory", "bad allocation", "bad_alloc", "out of memory", "can't start new thread")
KERNEL_SIGNS = ("Could not find an implementation", "NOT_IMPLEMENTED")
NO_KERNEL = (
    "onnxruntime has this operator for newer opsets or other types only: convert an old model with "
    "onnx.version_converter, bfloat16 and float64 weights to float32."
)
MESSAGE_CHARACTERS = 300


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in SIGNS)


def run_failure(error: BaseException, words: str, where: str = "") -> EspalierError:
    """Why a model did not run. `words` are the error's, for people."""
    if is_out_of_memory(error):
        return EspalierError("job_out_of_memory", f"an allocation failed: {words}", where=where)
    hint = NO_KERNEL if any(sign in words for sign in KERNEL_SIGNS) else ""
    return EspalierError("model_does_not_run", words, where=where, hint=hint)


def shortened(error: BaseException) -> str:
    """The library's words in one line of bounded length."""
    return " ".join(str(error).split())[:MESSAGE_CHARACTERS]
