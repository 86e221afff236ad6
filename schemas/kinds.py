"""The kinds of jobs, and the options that each takes.

In: nothing. Out: `JobRequest` (any of them) and `REQUESTS` (which one a kind takes).
"""

from schemas.inspect_request import InspectRequest
from schemas.request import JobKind, PruneRequest
from schemas.sweep import CompareRequest, SweepRequest

JobRequest = PruneRequest | InspectRequest | SweepRequest | CompareRequest
REQUESTS: dict[JobKind, type[JobRequest]] = {
    "prune": PruneRequest,
    "inspect": InspectRequest,
    "sweep": SweepRequest,
    "compare": CompareRequest,
}
