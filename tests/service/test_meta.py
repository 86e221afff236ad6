"""What the service says of itself."""

import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.criteria import CRITERIA
from schemas.device import TARGETS
from schemas.errors import FAILURES
from service.app import create_app
from state.records import WorkerInfo
from state.settings import Settings
from tests.conftest import RedisServer
from tests.service.conftest import Api

Serve = Callable[..., Api]


def beat(api: Api, queue: str, level: str = "full") -> None:
    worker = {"name": f"w-{queue}", "queue": queue, "sandbox_level": level, "pid": 1, "host": "h", "started_at": 0.0}
    api.service.jobs.beat(WorkerInfo.model_validate(worker), 30)


def test_health_depends_on_nothing(serve: Serve) -> None:
    api = serve(redis_url="unix:///nowhere/redis.sock")
    answer = api.client.get("/healthz")
    assert (200, {"status": "ok"}) == (answer.status_code, answer.json())


class TestReadiness:
    def test_ready_means_that_a_job_would_run(self, api: Api) -> None:
        nobody = api.client.get("/readyz")
        assert (503, False, "2") == (nobody.status_code, nobody.json()["ready"], nobody.headers["Retry-After"])
        beat(api, "cpu", "partial")
        ready = api.client.get("/readyz")
        assert (200, True) == (ready.status_code, ready.json()["ready"])
        workers = ready.json()["workers"]
        assert ("w-cpu", "partial", []) == (
            workers["cpu"][0]["name"],
            workers["cpu"][0]["sandbox_level"],
            workers["gpu"],
        )

    def test_without_redis(self, serve: Serve) -> None:
        answer = serve(redis_url="unix:///nowhere/redis.sock").client.get("/readyz")
        assert (503, False, True) == (
            answer.status_code,
            answer.json()["redis"]["ok"],
            answer.json()["storage"]["ok"],
        )

    def test_without_a_disk(self, api: Api) -> None:
        beat(api, "cpu")
        api.home.mkdir()
        (api.home / "tmp").write_text("not a folder")
        answer = api.client.get("/readyz")
        assert (503, True, False) == (
            answer.status_code,
            answer.json()["redis"]["ok"],
            answer.json()["storage"]["ok"],
        )


def test_everything_that_needs_redis_says_so_at_once(serve: Serve) -> None:
    api = serve(redis_url="unix:///nowhere/redis.sock")
    job, blob = "/jobs/" + "0" * 32, "/blobs/sha256:" + "0" * 64
    for method, path in [
        ("POST", "/prune"),
        ("GET", "/jobs"),
        ("GET", job),
        ("GET", job + "?wait=9"),
        ("GET", job + "/events"),
        ("GET", job + "/artifact"),
        ("POST", job + "/cancel"),
        ("DELETE", job),
        ("PUT", blob),
        ("DELETE", blob),
    ]:
        files = {"model": b"m", "calibration": b"c"} if path == "/prune" else None
        answer = api.client.request(method, path, files=files)
        told = (answer.status_code, answer.json()["code"], "Retry-After" in answer.headers)
        assert (method, path, 503, "state_unavailable", True) == (method, path, *told)
        assert "nowhere" not in answer.text
    assert "Redis: ConnectionError" == api.client.get("/readyz").json()["redis"]["detail"]
    assert [] == api.files()


def figures(api: Api) -> dict[tuple[str, frozenset[str]], float]:
    families = text_string_to_metric_families(api.client.get("/metrics").text)
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value for one in families for sample in one.samples
    }


def test_metrics(serve: Serve) -> None:
    api = serve()
    cancelled, running = api.submit(model=b"1"), api.submit(model=b"2")
    api.submit(model=b"3")
    api.client.post(f"/jobs/{cancelled}/cancel")
    api.start(running)
    api.client.get(f"/jobs/{running}")
    api.client.get("/jobs/" + "0" * 32)
    api.client.request("BREW", "/jobs")
    told = figures(api)
    expected = {
        ("espalier_state_up", frozenset()): 1,
        ("espalier_jobs_queued", frozenset({"cpu"})): 1,
        ("espalier_jobs_queued", frozenset({"gpu"})): 0,
        ("espalier_jobs_running", frozenset()): 1,
        ("espalier_jobs_submitted_total", frozenset()): 3,
        ("espalier_jobs_finished_total", frozenset({"cancelled"})): 1,
        ("espalier_jobs_finished_total", frozenset({"succeeded"})): 0,
        ("espalier_http_requests_total", frozenset({"POST", "/prune", "202"})): 3,
        # The route, not the path: ids would make a new figure each.
        ("espalier_http_requests_total", frozenset({"GET", "/jobs/{job_id}", "200"})): 1,
        ("espalier_http_requests_total", frozenset({"GET", "/jobs/{job_id}", "404"})): 1,
        ("espalier_http_request_seconds_count", frozenset({"/prune"})): 3,
    }
    assert expected.items() <= told.items()
    assert not any("BREW" in labels for _, labels in told)


def test_metrics_without_redis(own_redis: RedisServer, serve: Serve) -> None:
    api = serve(redis_url=own_redis.url)
    own_redis.kill()
    assert 0 == figures(api)["espalier_state_up", frozenset()]


def test_every_device_is_listed_with_its_source(api: Api) -> None:
    told = api.client.get("/targets").json()["targets"]
    assert [one.model_dump(mode="json") for one in TARGETS.values()] == told
    assert all(one["source"] and one["macs_per_cycle_basis"] and one["part"] for one in told)


def test_every_parameter_of_every_criterion_is_documented(api: Api) -> None:
    told = {one["name"]: one for one in api.client.get("/criteria").json()["criteria"]}
    assert set(CRITERIA) == set(told)
    for name, criterion in CRITERIA.items():
        parameters = {one["name"]: one for one in told[name]["parameters"]}
        assert set(criterion.model_fields) - {"name"} == set(parameters)
        assert all(one["description"] and one["type"] for one in parameters.values())
        assert all(told[name][key] for key in ("summary", "use_when", "cost", "paper", "json_schema"))
    angle = next(one for one in told["distinctiveness"]["parameters"] if one["name"] == "angle_deg")
    assert ("number", 15.0, 0, 180) == (angle["type"], angle["default"], angle["minimum"], angle["maximum"])
    threshold = next(one for one in told["magnitude"]["parameters"] if one["name"] == "threshold")
    assert ("number | null", None, 0) == (threshold["type"], threshold["default"], threshold["above"])
    norm = next(one for one in told["magnitude"]["parameters"] if one["name"] == "norm")
    assert (["l1", "l2"], "l2") == (norm["choices"], norm["default"])


class Links(HTMLParser):
    """Collects ids, links and whatever would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag == "a":
            self.links.append(given["href"] or "")
        if tag in ("script", "link", "img", "iframe") or "src" in given:
            self.fetched.append(tag)


def test_the_documentation_works_without_a_network(api: Api) -> None:
    assert "/docs" == api.client.get("/").headers["Location"]
    text = api.client.get("/docs").text
    page = Links()
    page.feed(text)
    assert [] == page.fetched
    assert "url(" not in text
    assert [] == [link for link in page.links if link.startswith("#") and link[1:] not in page.ids]
    assert len(page.ids) == len(set(page.ids))
    # The `type` of a problem is a link to its code here.
    assert set(FAILURES) <= set(page.ids)


def test_the_description_is_complete(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    wanted = set(re.findall(r"#/components/schemas/([A-Za-z0-9_]+)", api.client.get("/openapi.json").text))
    assert set() == wanted - set(schemas)
    assert not any("ValidationError" in name for name in schemas)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], path
            good = [one for status, one in operation["responses"].items() if status.startswith("2")]
            assert good, (method, path)
            for status, response in operation["responses"].items():
                if status[0] in "45" and path != "/readyz":
                    assert ["application/problem+json"] == list(response["content"]), (method, path, status)
    prune = document["paths"]["/prune"]["post"]
    assert {"multipart/form-data", "application/json"} == set(prune["requestBody"]["content"])
    form = prune["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert {"model", "calibration", "evaluation", "history", "options"} == set(form)
    look = document["paths"]["/inspect"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"][
        "properties"
    ]
    assert {"model", "calibration", "options"} == set(look)
    assert [{"bearer": []}, {"apiKey": []}] == prune["security"]
    assert [] == document["paths"]["/healthz"]["get"]["security"]


@pytest.mark.parametrize("given", ["trace-1.a:b_c", None, "x" * 129, "a b"])
def test_the_request_id_comes_back(api: Api, given: str | None) -> None:
    answer = api.client.get("/jobs/x", headers={"X-Request-ID": given} if given else {})
    told = answer.headers["X-Request-ID"]
    assert told == answer.json()["request_id"]
    assert (told == given) == (given == "trace-1.a:b_c")


def test_the_reference_names_every_route() -> None:
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in text


def test_each_request_is_one_line_of_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[str]:
        return [one.getMessage() for one in list(caplog.records) if one.getMessage().startswith("mine ")]

    with caplog.at_level("INFO", logger="espalier.http"):
        answer = api.client.get("/a%0d%0aFAKE%20line", headers={"X-Request-ID": "mine"})
        assert 404 == answer.status_code
        for _ in range(500):  # the line is written once the answer is on its way
            if lines():
                break
            time.sleep(0.01)
    assert 1 == len(lines())
    assert r"mine GET '/a\r\nFAKE line' 404 " in lines()[0]


def test_examples_name_the_address_that_their_reader_knows(serve: Serve) -> None:
    here = serve()
    assert f"{str(here.client.base_url).rstrip('/')}/prune" in here.client.get("/docs").text
    behind = serve(public_url="https://prune.example.org/")
    assert "https://prune.example.org/prune" in behind.client.get("/docs").text
