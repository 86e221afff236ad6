"""Jobs over HTTP: looking, waiting, listing, cancelling, deleting."""

import threading
import time
from collections.abc import Callable

import httpx
import pytest

from schemas.job import Progress, ResultManifest
from service.context import new_job_id
from tests.service.conftest import Api

Serve = Callable[..., Api]


def later(do: Callable[[], object], seconds: float = 0.2) -> threading.Thread:
    thread = threading.Timer(seconds, do)
    thread.start()
    return thread


def test_ids_sort_by_time() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_job_id())
        time.sleep(0.002)
    assert sorted(ids) == ids
    assert {(32, "7", True)} == {(len(one), one[12], one[16] in "89ab") for one in ids}


def test_the_tag_of_a_job_changes_with_the_job(api: Api) -> None:
    job_id = api.submit()
    first = api.client.get(f"/jobs/{job_id}")
    tag = first.headers["ETag"]
    same = api.client.get(f"/jobs/{job_id}", headers={"If-None-Match": f'"other", {tag}'})
    assert (304, b"", tag) == (same.status_code, same.content, same.headers["ETag"])
    api.start(job_id)
    changed = api.client.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    assert (200, "running", 1) == (changed.status_code, changed.json()["state"], changed.json()["attempt"])
    assert tag != changed.headers["ETag"]


class TestWait:
    """The client gives up after 30 s, half of what it asks the service to wait: an answer that came did not wait."""

    def test_it_ends_with_a_change_of_state(self, api: Api) -> None:
        job_id = api.submit()
        worker = later(lambda: api.start(job_id))
        assert "running" == api.client.get(f"/jobs/{job_id}", params={"wait": 60}).json()["state"]
        worker.join()

    def test_progress_does_not_end_it(self, api: Api) -> None:
        job_id = api.submit()
        attempt = api.start(job_id)
        step = Progress(stage="observe", fraction=0.5)
        worker = later(lambda: api.service.jobs.renew(job_id, attempt, lease_seconds=60, progress=step), 0.1)
        answer = api.client.get(f"/jobs/{job_id}", params={"wait": 0.6}).json()
        assert ("running", "observe") == (answer["state"], answer["progress"]["stage"])
        worker.join()

    def test_an_ended_job_is_not_waited_for(self, api: Api) -> None:
        job_id = api.submit()
        api.succeed(job_id)
        assert "succeeded" == api.client.get(f"/jobs/{job_id}?wait=60").json()["state"]

    def test_who_has_an_old_copy_gets_the_new_one_at_once(self, api: Api) -> None:
        job_id = api.submit()
        answer = api.client.get(f"/jobs/{job_id}?wait=60", headers={"If-None-Match": '"old"'})
        assert 200 == answer.status_code

    def test_who_has_the_newest_waits_and_may_hear_that_nothing_changed(self, api: Api) -> None:
        job_id = api.submit()
        tag = api.client.get(f"/jobs/{job_id}").headers["ETag"]
        assert 304 == api.client.get(f"/jobs/{job_id}?wait=0.2", headers={"If-None-Match": tag}).status_code

    @pytest.mark.parametrize("wait", ["-1", "61", "long", "nan"])
    def test_times_that_are_refused(self, api: Api, wait: str) -> None:
        answer = api.client.get(f"/jobs/{api.submit()}?wait={wait}")
        assert (422, "request_invalid", "/query/wait") == (
            answer.status_code,
            answer.json()["code"],
            answer.json()["errors"][0]["pointer"],
        )

    def test_a_caller_who_leaves_frees_the_place(self, api: Api) -> None:
        job_id = api.submit()
        free = api.service.feed._free
        with httpx.Client(base_url=api.url, timeout=0.2) as impatient, pytest.raises(httpx.ReadTimeout):
            impatient.get(f"/jobs/{job_id}?wait=60")
        for _ in range(500):
            if free == api.service.feed._free:
                break
            time.sleep(0.01)
        assert free == api.service.feed._free

    def test_there_is_an_end_of_places(self, serve: Serve) -> None:
        api = serve()
        job_id = api.submit()
        api.service.feed._free = 0
        answer = api.client.get(f"/jobs/{job_id}?wait=1")
        assert (503, "too_many_listeners") == (answer.status_code, answer.json()["code"])
        assert 503 == api.client.get(f"/jobs/{job_id}/events").status_code
        assert 200 == api.client.get(f"/jobs/{job_id}").status_code

    def test_many_waiters_leave_threads_for_others(self, api: Api) -> None:
        job_id = api.submit()
        url = f"{api.url}/jobs/{job_id}?wait=30"
        free = api.service.feed._free
        waiters = [threading.Thread(target=httpx.get, args=(url,), kwargs={"timeout": 60}) for _ in range(60)]
        for waiter in waiters:
            waiter.start()
        while api.service.feed._free > free - 60:
            time.sleep(0.01)
        # Sixty callers wait; a pool of forty threads would be empty now.
        assert 200 == api.client.get("/jobs").status_code
        api.start(job_id)
        for waiter in waiters:
            waiter.join()


def test_pages_go_from_the_newest_to_the_oldest(api: Api) -> None:
    ids = []
    for _ in range(5):
        ids.append(api.submit())
        time.sleep(0.002)
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        page = api.client.get("/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
    assert ids[::-1] == seen
    assert cursor is None
    refused = api.client.get("/jobs?cursor=x")
    assert (400, "cursor_invalid") == (refused.status_code, refused.json()["code"])
    assert "/query/limit" == api.client.get("/jobs?limit=0").json()["errors"][0]["pointer"]


class TestCancel:
    def test_a_queued_job_is_cancelled_at_once_and_leaves_its_ending(self, api: Api) -> None:
        job_id = api.submit()
        answer = api.client.post(f"/jobs/{job_id}/cancel")
        assert (200, "cancelled", "cancelled") == (
            answer.status_code,
            answer.json()["state"],
            answer.json()["failure"]["code"],
        )
        assert [f"jobs/{job_id}/result.json", f"jobs/{job_id}/submit.json"] == api.files()
        kept = ResultManifest.model_validate_json((api.home / "jobs" / job_id / "result.json").read_text())
        assert ("cancelled", 0, answer.json()["finished_at"]) == (kept.state, kept.attempt, kept.finished_at)
        assert api.service.jobs.claim(job_id, "w", lease_seconds=10) is None

    def test_a_running_job_is_asked_to_stop(self, api: Api) -> None:
        job_id = api.submit()
        attempt = api.start(job_id)
        answer = api.client.post(f"/jobs/{job_id}/cancel")
        assert (202, "running", True) == (
            answer.status_code,
            answer.json()["state"],
            answer.json()["cancel_requested"],
        )
        assert "cancel" == api.service.jobs.renew(job_id, attempt, lease_seconds=10, progress=None)

    def test_an_ended_job_stays_as_it_is(self, api: Api) -> None:
        job_id = api.submit()
        api.succeed(job_id)
        answer = api.client.post(f"/jobs/{job_id}/cancel")
        assert (200, "succeeded") == (answer.status_code, answer.json()["state"])


class TestDelete:
    @pytest.mark.parametrize("ended", [True, False])
    def test_nothing_remains(self, api: Api, ended: bool) -> None:
        job_id = api.submit()
        if ended:
            api.succeed(job_id)
        assert 204 == api.client.delete(f"/jobs/{job_id}").status_code
        assert [] == api.files()
        assert 404 == api.client.get(f"/jobs/{job_id}").status_code
        assert 404 == api.client.delete(f"/jobs/{job_id}").status_code

    def test_a_running_job_is_not_deleted(self, api: Api) -> None:
        job_id = api.submit()
        api.start(job_id)
        answer = api.client.delete(f"/jobs/{job_id}")
        assert (409, "job_still_running") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("path", ["/jobs/x", "/jobs/" + "0" * 32, "/jobs/" + "0" * 31 + "%0a"])
def test_jobs_that_never_were(api: Api, path: str) -> None:
    answer = api.client.get(path)
    assert (404, "not_found") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("what", ["artifact", "report", "report.html"])
def test_results_that_are_not_there(api: Api, what: str) -> None:
    job_id = api.submit()
    early = api.client.get(f"/jobs/{job_id}/{what}")
    assert (409, "job_not_finished") == (early.status_code, early.json()["code"])
    assert "Retry-After" in early.headers
    api.fail(job_id)
    never = api.client.get(f"/jobs/{job_id}/{what}")
    assert (409, "job_has_no_result") == (never.status_code, never.json()["code"])
