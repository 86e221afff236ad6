"""`espalier rebuild-index`: the jobs of a lost Redis, from the manifests.

In: a home folder and the environment. Out: a sentence that counts what was restored. The Redis is the one that
ESPALIER_REDIS_URL names, else that of the embedded service running in the home folder. Refused: a Redis that does not
answer (`state_unavailable`), a home that is not there, manifests that cannot be listed (`storage_unavailable`).
"""

from collections.abc import Mapping
from pathlib import Path

from schemas.errors import EspalierError
from service.claim_home import holder_of
from state.blobs import open_blobs
from state.jobs import JobStore, connect
from state.rebuild import rebuild_index
from state.settings import Settings


def rebuild(home: Path | None, environ: Mapping[str, str]) -> str:
    settings = Settings.from_env({**environ, **({"ESPALIER_HOME": str(home)} if home else {})})
    if not settings.home.is_dir():
        raise EspalierError("storage_unavailable", f"there is no folder {settings.home}", where="--home")
    holder = holder_of(settings.home)
    own = holder.redis_url if holder and not environ.get("ESPALIER_REDIS_URL") else ""
    store = JobStore(connect(own or settings.redis_url))
    counts = rebuild_index(store, open_blobs(settings), idempotency_seconds=settings.idempotency_seconds)
    return (
        f"{counts.queued} jobs are queued again, {counts.finished} finished ones are back, {counts.known} were known; "
        f"{counts.damaged} could not be restored"
    )
