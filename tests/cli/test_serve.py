"""The embedded service as real processes: it starts, says so, heals, and leaves nothing running."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from service.claim_home import holder_of
from tests.serving import Serve, alive, eventually, healthy


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    started: list[Serve] = []

    def go(*arguments: str, home: Path | None = None, **environ: str) -> Serve:
        started.append(Serve(home or tmp_path / "home", *arguments, **environ))
        return started[-1]

    yield go
    for serve in started:
        serve.stop()


def test_it_serves_says_so_and_leaves_nothing_behind(start: Callable[..., Serve], tmp_path: Path) -> None:
    serve = start()
    said = serve.line()
    url = said.split()[2]
    assert f"Espalier serves {url} (home {tmp_path / 'home'}). Submit: espalier prune" in said
    assert "Stop: Ctrl-C." in said
    assert {"status": "ok"} == httpx.get(f"{url}/healthz").json()
    holder = holder_of(tmp_path / "home")
    assert holder is not None
    assert (serve.process.pid, url) == (holder.pid, holder.url)
    family = serve.family()
    assert len(family) >= 3
    assert 0 == serve.stop(signal.SIGINT)
    assert [] == alive(family)
    assert holder_of(tmp_path / "home") is None


def test_redis_is_private_and_durable(start: Callable[..., Serve], tmp_path: Path) -> None:
    serve = start()
    serve.url()
    path = tmp_path / "home/redis/redis.sock"
    with redis.Redis(unix_socket_path=str(path), decode_responses=True) as client:
        wanted = {"port": "0", "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert wanted == client.config_get(*wanted)
    assert 0o700 == (tmp_path / "home/redis").stat().st_mode & 0o777
    assert [] == serve.part("redis.sock").net_connections("inet")


@pytest.mark.parametrize("words", ["service.api", "redis.sock"])
def test_what_is_killed_is_started_again(start: Callable[..., Serve], words: str) -> None:
    serve = start()
    url = serve.url()
    killed = serve.part(words)
    killed.kill()
    again = eventually(lambda: (one := serve.part_now(words)) and one.pid != killed.pid and one)
    assert killed.pid != again.pid
    eventually(lambda: httpx.get(f"{url}/readyz", timeout=5).json()["redis"]["ok"])
    assert any("was killed by SIGKILL; starting it again" in line for line in serve.log)


def test_when_the_supervisor_is_killed_its_parts_go_too(start: Callable[..., Serve]) -> None:
    serve = start()
    serve.url()
    family = serve.family()
    serve.process.kill()
    eventually(lambda: not alive(family))


def test_the_home_of_a_killed_service_can_be_used_again(start: Callable[..., Serve]) -> None:
    first = start()
    first.url()
    family = first.family()
    first.process.kill()
    eventually(lambda: not alive(family))
    assert healthy(start().url())


def test_two_services_do_not_share_a_home(start: Callable[..., Serve]) -> None:
    first = start()
    url = first.url()
    second = start()
    assert "" == second.line()
    assert 2 == second.stop()
    assert f"is in use by process {first.process.pid} at {url}" in "".join(second.log)
    assert healthy(url)


def test_a_taken_port_is_named(start: Callable[..., Serve]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        serve = start("--port", port)
        assert "" == serve.line()
        assert 2 == serve.stop()
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port" in "".join(
            serve.log
        )


def test_a_home_that_is_a_file_is_named(start: Callable[..., Serve], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    serve = start(home=tmp_path / "file")
    assert "" == serve.line()
    assert 2 == serve.stop()
    assert "cannot be written" in "".join(serve.log)


def test_an_api_that_cannot_start_ends_the_service_with_its_words(start: Callable[..., Serve], tmp_path: Path) -> None:
    serve = start(ESPALIER_API_KEYS_FILE=str(tmp_path / "missing.txt"))
    assert "" == serve.line()
    assert 3 == serve.stop()
    assert "api did not start" in "".join(serve.log)
    assert "missing.txt" in "".join(serve.log)


def test_a_redis_that_cannot_start_ends_the_service_with_its_words(start: Callable[..., Serve], tmp_path: Path) -> None:
    folder = tmp_path / "home/redis/appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("not a manifest\n")
    serve = start()
    assert "" == serve.line()
    assert 3 == serve.stop()
    assert "redis did not start" in "".join(serve.log)


def test_keys_are_asked_for_when_there_is_a_keys_file(start: Callable[..., Serve], tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"me:{'0' * 64}\n")
    url = start("--api-keys-file", str(tmp_path / "keys.txt")).url()
    assert 401 == httpx.get(f"{url}/jobs").status_code
    assert healthy(url)


def test_a_home_with_a_long_path_still_has_a_socket(start: Callable[..., Serve], tmp_path: Path) -> None:
    url = start(home=tmp_path / ("long" * 25)).url()
    assert httpx.get(f"{url}/readyz").json()["redis"]["ok"]


def test_a_redis_of_ones_own_is_used(start: Callable[..., Serve], redis_url: str) -> None:
    serve = start(ESPALIER_REDIS_URL=redis_url)
    url = serve.url()
    assert httpx.get(f"{url}/readyz").json()["redis"]["ok"]
    assert serve.part_now("redis.sock") is None


def test_jobs_of_a_lost_redis_come_back(start: Callable[..., Serve], tmp_path: Path) -> None:
    serve = start()
    url = serve.url()
    serve.part("worker.app").suspend()
    form = {"model": ("m.onnx", b"model"), "calibration": ("c.npz", b"data")}
    job = httpx.post(f"{url}/prune", files=form).json()
    serve.stop(signal.SIGKILL)
    for file in (tmp_path / "home/redis").rglob("*"):
        if file.is_file():
            file.unlink()
    again = start()
    url = again.url()
    assert 404 == httpx.get(f"{url}/jobs/{job['id']}").status_code
    said = subprocess.run(
        [sys.executable, "-m", "service.cli", "rebuild-index", "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith("1 jobs are queued again, 0 finished")
    assert job["id"] == json.loads(httpx.get(f"{url}/jobs/{job['id']}").text)["id"]
