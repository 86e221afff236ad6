"""A store on a real Redis, and jobs in it."""

from collections.abc import Callable, Iterator

import pytest

from state.jobs import JobStore, connect
from tests.state.manifests import LIMITS, submission


@pytest.fixture
def store(redis_url: str) -> Iterator[JobStore]:
    client = connect(redis_url)
    yield JobStore(client)
    client.close()


@pytest.fixture
def submit(store: JobStore) -> Callable[..., str]:
    """Add the model's blob for the owner and queue a job; its id."""

    def go(number: int, **more: str) -> str:
        made = submission(number, **more)
        store.add_blob(made.inputs.model.blob, made.owner)
        return store.submit(made, **LIMITS).job_id

    return go
