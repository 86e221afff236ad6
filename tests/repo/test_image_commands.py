"""The Dockerfile's own commands, run in a clean folder: its installs, its start command and its health check.

There is no container: the paths of the image are moved below a temporary folder, and nothing else is changed.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.conftest import RedisServer, die_with_parent
from tests.repo.dockerfile import Stage, environment, read

ROOT = Path(__file__).parents[2]
KEPT = ("HOME", "LANG", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy")


def clean_environment() -> dict[str, str]:
    """This machine's way to its package index, and nothing of the environment that the tests run in."""
    kept = {name: os.environ[name] for name in os.environ if name in KEPT or name.startswith("PIP_")}
    python = Path(sys.base_prefix) / "bin"
    return {**kept, "PATH": f"{python}:/usr/bin:/bin"}


class Image:
    """A folder that stands for the image's root."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.env = clean_environment()
        self.workdir = folder

    def moved(self, text: str) -> str:
        for path in ("/opt/espalier", "/src", "/var/lib/espalier"):
            text = text.replace(path, f"{self.root}{path}")
        return text

    def set_environment(self, stage: Stage) -> None:
        for name, value in environment(stage).items():
            self.env[name] = self.moved(value).replace("$PATH", self.env["PATH"])

    def build(self, stage: Stage) -> None:
        for one in stage.instructions:
            if one.word == "WORKDIR":
                self.workdir = Path(self.moved(one.rest))
                self.workdir.mkdir(parents=True)
            elif one.word == "COPY":
                *sources, _ = one.rest.split()
                for source in sources:
                    copy(ROOT / source, self.workdir / source)
            elif one.word == "ENV":
                self.set_environment(Stage("", "", (one,)))
            elif one.word == "RUN":
                subprocess.run(["/bin/sh", "-euc", self.moved(one.rest)], cwd=self.workdir, env=self.env, check=True)

    @contextmanager
    def running(self, command: list[str], extra: dict[str, str]) -> Iterator[dict[str, str]]:
        env = {**self.env, **extra}
        home = Path(self.env["ESPALIER_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(command_in(env, command), cwd=home, env=env, preexec_fn=die_with_parent)  # noqa: PLW1509
        try:
            yield env
        finally:
            process.terminate()
            process.wait(timeout=30)


def command_in(env: dict[str, str], command: list[str]) -> list[str]:
    found = shutil.which(command[0], path=env["PATH"])
    assert found is not None
    return [found, *command[1:]]


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def healthy(env: dict[str, str], check: list[str], within_seconds: float) -> bool:
    """Whether the health check passes in time."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if subprocess.run(command_in(env, check), env=env, check=False, stdout=subprocess.DEVNULL).returncode == 0:
            return True
        time.sleep(0.2)
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.timeout(400)
def test_install_start_and_health(tmp_path: Path, own_redis: RedisServer) -> None:
    stages = {stage.name: stage for stage in read(ROOT / "Dockerfile")}
    image = Image(tmp_path)
    image.build(stages["build"])
    image.set_environment(stages["runtime"])
    image.set_environment(stages["runtime-cpu"])
    keys = tmp_path / "api_keys.txt"
    keys.write_text(f"me:{hashlib.sha256(b'a key of this test').hexdigest()}\n")
    extra = {
        "ESPALIER_REDIS_URL": own_redis.url,
        "ESPALIER_API_KEYS_FILE": str(keys),
        "ESPALIER_PORT": str(free_port()),
    }
    check = stages["runtime"].all("HEALTHCHECK")[0].listed()
    api = stages["runtime"].all("CMD")[0].listed()
    assert not healthy({**image.env, **extra}, check, 0.1), "nothing runs yet"
    with image.running(api, extra) as env:
        assert healthy(env, check, 30)
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        worker = services["worker-cpu"]
        beat = worker["healthcheck"]["test"][1:]
        assert not healthy(env, beat, 0.1), "no worker has reported itself yet"
        with image.running(worker["command"], extra) as worker_env:
            assert healthy(worker_env, beat, 60)
