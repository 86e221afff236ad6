"""The failure codes: what each means, what to try, and the HTTP status it answers with.

In: nothing. Out: `FAILURES` (one table, total), `Failure` (a failure as data) and `EspalierError` (a failure on its way
up). A code, once published, keeps its meaning.
"""

from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Kind:
    """What one failure code means, to the HTTP layer and to the reader of the documentation."""

    status: int
    title: str
    hint: str
    retry: bool = False


FAILURES: dict[str, Kind] = {
    # ---- the request
    "options_invalid": Kind(
        422, "The options are not valid", "Correct the options named here; the README has a table of all."
    ),
    "options_not_json": Kind(400, "The options are not JSON", "Send `options` as one JSON object."),
    "body_invalid": Kind(400, "The request body cannot be read", "Send multipart/form-data, or JSON that names blobs."),
    "model_missing": Kind(422, "There is no model in the request", "Send the model as the form field `model`."),
    "not_acceptable": Kind(406, "There is no such form of it", "Ask for a media type that the message names."),
    "unsupported_media_type": Kind(415, "The content type is not supported", "Use multipart/form-data or JSON."),
    "not_found": Kind(404, "There is no such thing here", "Check the address and the API key it belongs to."),
    "method_not_allowed": Kind(405, "This address does not take that method", "See /docs for what it takes."),
    "blob_not_found": Kind(404, "There is no such blob", "Upload it first with PUT /blobs/sha256:<hex>."),
    "blob_hash_mismatch": Kind(422, "The body is not what its hash says", "Hash the file again and repeat the upload."),
    "blob_name_invalid": Kind(400, "That is not a blob name", "Blobs are named sha256:<64 lower-case hex digits>."),
    "payload_too_large": Kind(413, "The upload is larger than this service takes", "Send less, or raise the limit."),
    "range_not_satisfiable": Kind(416, "The range lies outside the file", "Ask for bytes that the file has."),
    "cursor_invalid": Kind(400, "The cursor is not one of ours", "Use `next` from the previous page, unchanged."),
    "idempotency_key_reused": Kind(
        422, "The idempotency key was used for another request", "Use a new key for a new request."
    ),
    "idempotency_key_invalid": Kind(400, "The idempotency key is not usable", "Use 1 to 200 printable characters."),
    "request_invalid": Kind(422, "A parameter of the request is not valid", "Correct what is named here."),
    # ---- who may
    "unauthorized": Kind(401, "An API key is needed", "Send `Authorization: Bearer <key>`."),
    "host_forbidden": Kind(
        403, "This host name is not served", "The keyless service answers only to loopback names; configure API keys."
    ),
    "origin_forbidden": Kind(
        403, "Web pages may not call this service", "Call it from a program, or configure API keys."
    ),
    # ---- the state of the service
    "queue_full": Kind(503, "The queue is full", "Try again after the time in Retry-After.", retry=True),
    "too_many_jobs": Kind(
        429, "Too many unfinished jobs for this API key", "Wait for one to finish, or cancel one.", retry=True
    ),
    "too_many_listeners": Kind(503, "Too many callers wait for events", "Poll the job without ?wait=.", retry=True),
    "state_unavailable": Kind(503, "Redis is unwell", "Try again after the time in Retry-After.", retry=True),
    "storage_unavailable": Kind(503, "The storage is unwell", "Try again after the time in Retry-After.", retry=True),
    "device_unavailable": Kind(
        503, "No live worker has that device", "Use device `auto` or `cpu`, or start a worker for it.", retry=True
    ),
    "job_not_finished": Kind(409, "The job has not finished", "Poll the job until it has succeeded.", retry=True),
    "job_has_no_result": Kind(409, "The job has no result", "Read the job's `failure` and submit again."),
    "job_still_running": Kind(409, "The job is still running", "Cancel it first, then delete it.", retry=True),
    "internal_error": Kind(500, "Something broke on our side", "Report it with the request_id or the job's id."),
    # ---- the model
    "model_unreadable": Kind(422, "The model file cannot be read", "Check that the file is complete and is ONNX."),
    "model_format_unsupported": Kind(
        422, "The model is in a format that is not taken", "Export it with torch.onnx.export and send the .onnx file."
    ),
    "torchscript_untrusted": Kind(
        422, "TorchScript is not opened here", "Export it with torch.onnx.export and send the .onnx file."
    ),
    "torchscript_refused": Kind(
        422, "The TorchScript file cannot be taken", "Export it with torch.onnx.export and send the .onnx file."
    ),
    "model_invalid": Kind(422, "The model is not valid ONNX", "Run onnx.checker.check_model on it and repair it."),
    "model_too_large": Kind(
        422,
        "The model is larger than ONNX files can be",
        "Prune it in parts, or convert its weights to half precision.",
    ),
    "model_external_data_missing": Kind(
        422, "The model's external data was not sent", "Send the files it names under `external`."
    ),
    "model_does_not_run": Kind(422, "The model does not run in onnxruntime", "Run it there with your data first."),
    "nothing_to_prune": Kind(422, "The model has no unit that can be removed", "Read the refusals; widen `scope`."),
    "scope_matches_nothing": Kind(422, "No prunable layer matches `scope`", "Use names from the list in the message."),
    # ---- the data
    "calibration_required": Kind(
        422,
        "These options need calibration data",
        "Send it as the field `calibration`, with --data on the command line.",
    ),
    "labels_required": Kind(422, "These options need labels", "Add an array `labels` to the calibration data."),
    "data_unreadable": Kind(422, "The data file cannot be read", "Send .npz, .npy or .csv; see the README."),
    "data_object_array": Kind(422, "The data holds Python objects", "Save plain numeric arrays."),
    "data_too_large": Kind(422, "The data is larger than the limit once unpacked", "Send fewer samples."),
    "data_input_missing": Kind(422, "An input of the model has no array", "Name the arrays as the model's inputs."),
    "data_input_unknown": Kind(422, "An array belongs to no input", "Name the arrays as the model's inputs."),
    "data_shape_mismatch": Kind(422, "An array does not fit its input", "Send (samples, ...) as the model takes it."),
    "data_dtype_mismatch": Kind(422, "An array's type does not fit its input", "Send numbers of the input's kind."),
    "data_not_finite": Kind(422, "The data holds NaN or infinity", "Remove or repair those samples."),
    "data_empty": Kind(422, "The data has no usable sample", "Send a file with samples in it."),
    "history_required": Kind(
        422,
        "These options need the history of the training",
        "Record it as examples/record_history.py does; the field `history`, --history on the command line.",
    ),
    "history_invalid": Kind(
        422,
        "The history of the training cannot be used",
        "Send an .npz with e0/<name>, e1/<name>, ... for each weight, as examples/record_history.py writes it.",
    ),
    "history_does_not_match": Kind(
        422,
        "The history is not that of this model",
        "Name its weights as the model's initializers, or leave these layers out with scope.exclude.",
    ),
    "labels_invalid": Kind(422, "The labels do not fit the model's output", "Check `labels` and options.evaluation."),
    "preprocess_invalid": Kind(422, "`preprocess` does not fit the data", "Check mean, std, layout and channels."),
    "evaluation_invalid": Kind(422, "`evaluation` does not fit the model", "Check task, output and class_axis."),
    "quantize_failed": Kind(422, "The model cannot be rounded to eight bits", "Leave `quantize` out."),
    "gradient_unavailable": Kind(
        422, "An operator gives no gradient", "Choose what needs no gradient: `obs`, `brute_force`, no `distill`."
    ),
    # ---- the job
    "criterion_not_applicable": Kind(
        422, "The criterion has no say on this model", "Use another criterion; `use_when` in GET /criteria tells."
    ),
    "amount_unreachable": Kind(422, "The amount cannot be reached", "Ask for less; the message names the least."),
    "infeasible": Kind(
        422,
        "Nothing meets the constraints",
        "Loosen a constraint, name a larger target, or send more calibration samples.",
    ),
    "exactness_failed": Kind(500, "The pruned model failed its own proof", "Report it: this is a defect of ours."),
    "artifact_rejected": Kind(500, "The pruned model failed verification", "Report it: this is a defect of ours."),
    "job_timeout": Kind(422, "The job ran longer than its limit", "Send a smaller model or fewer samples."),
    "job_out_of_memory": Kind(422, "The job used more memory than its limit", "Send fewer samples or smaller inputs."),
    "job_crashed": Kind(422, "The job's process died", "The model crashes the runtime that reads it; run it locally."),
    "worker_lost": Kind(500, "The job was lost three times", "It may kill its workers; run it locally with --local."),
    "cancelled": Kind(409, "The job was cancelled", "Submit it again if you still need it."),
    "sandbox_unavailable": Kind(503, "The worker cannot confine jobs here", "See the sandbox level in /readyz."),
    # ---- the compiled check, which never loses a job's other results
    "toolchain_missing": Kind(501, "The worker cannot compile for microcontrollers", "Install what `where` names."),
    "device_operator_unsupported": Kind(
        422, "The model cannot be turned into C", "Replace the operator that `where` names."
    ),
    "device_memory_exceeded": Kind(422, "The emulated board has no room for it", "Prune more."),
    "device_check_failed": Kind(422, "The compiled check did not finish", "Read the detail; a smaller model may pass."),
    # ---- on the caller's side
    "service_unreachable": Kind(
        503, "The service cannot be reached", "Start it with `espalier serve`, or give its address with --server.", True
    ),
    "response_invalid": Kind(
        502, "The answer is not one of Espalier's", "Check the address; a proxy may answer for it."
    ),
    "download_corrupt": Kind(502, "The file that arrived is not the one announced", "Fetch it again."),
}


class FieldError(BaseModel):
    """One thing wrong inside a JSON document, with the pointer (RFC 6901) to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pointer: str = Field(description="JSON pointer into the document, for example /criterion/angle_deg.")
    detail: str = Field(description="What is wrong there and what would be right.")


class Failure(BaseModel):
    """A failure as data: stored with a job, carried over pipes, shown to people."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str = Field(description="Stable code from the table of failures.")
    title: str = Field(description="What the code means, in one sentence.")
    detail: str = Field(description="What happened here, with names and numbers.")
    where: str = Field(default="", description="The file, layer, array or option it happened at.")
    hint: str = Field(default="", description="What to try.")
    errors: tuple[FieldError, ...] = Field(default=(), description="One entry for each wrong option.")


class EspalierError(Exception):
    """A failure that a caller can cause or must know of. `code` is a key of `FAILURES`."""

    def __init__(
        self, code: str, detail: str, *, where: str = "", hint: str = "", errors: tuple[FieldError, ...] = ()
    ) -> None:
        super().__init__(f"{code}: {where + ': ' if where else ''}{detail}")
        kind = FAILURES[code]
        self.failure = Failure(
            code=code, title=kind.title, detail=detail, where=where, hint=hint or kind.hint, errors=errors
        )

    @classmethod
    def of(cls, failure: Failure) -> "EspalierError":
        """The error behind a failure that came from elsewhere; a newer service may send codes unknown here."""
        error = cls("internal_error", failure.detail, where=failure.where)
        error.args = (f"{failure.code}: {failure.where + ': ' if failure.where else ''}{failure.detail}",)
        error.failure = failure
        return error

    @property
    def code(self) -> str:
        return self.failure.code

    @property
    def status(self) -> int:
        kind = FAILURES.get(self.failure.code)
        return kind.status if kind else 500


def nearest(word: str, known: tuple[str, ...]) -> str:
    """A clause that names the known word closest to a mistyped one, or lists the known words."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}."
