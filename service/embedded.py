"""The embedded default: Redis, one API process and one worker, started, watched, restarted and stopped together.

In: the settings and the environment. Out: a service that runs until SIGINT or SIGTERM; one line on stdout says where it
serves. Refused, with a sentence and exit code 2: a home folder that is in use or cannot be written, a port that is
taken, no Redis server to be found. A part that cannot start at all ends the service with exit code 3; one that dies
later is restarted, each time after a longer pause.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from service.children import Child, Program, start, to_stderr
from service.claim_home import Claim, Holder, HomeError, claim
from service.redis_server import RedisMissingError, redis_program
from state.settings import Settings

LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
STEADY_SECONDS = 10.0
START_SECONDS = 60.0
POLITE_SECONDS = 8.0
STARTS_OR_FAILS = ("redis", "api")
STOP_ORDER = ("api", "worker", "redis")
DEFAULT_SERVER = "http://127.0.0.1:8000"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PartFailedError(Exception):
    """A part of the service ended before it had ever worked."""


def serve(settings: Settings, environ: Mapping[str, str]) -> int:
    """Run the embedded service; the exit code of the command."""
    settings = settings.model_copy(update={"home": settings.home.resolve()})
    try:
        held = claim(settings.home)
    except HomeError as error:
        return _refuse(str(error), 2)
    try:
        with _listen(settings.host, settings.port) as listener, _Folder(settings.home) as sockets:
            settings = settings.model_copy(update={"port": listener.getsockname()[1]})
            own_redis = not environ.get("ESPALIER_REDIS_URL")
            if own_redis:
                settings = settings.model_copy(update={"redis_url": f"unix://{sockets / 'redis.sock'}"})
            programs = _programs(settings, environ, listener, sockets if own_redis else None)
            asyncio.run(Supervisor(programs, settings, lambda: _announce(settings, held)).run())
            return 0
    except (RedisMissingError, OSError) as error:
        return _refuse(str(error), 2)
    except PartFailedError as error:
        return _refuse(str(error), 3)
    finally:
        held.release()


def _refuse(text: str, code: int) -> int:
    print(f"espalier serve: {text}", file=sys.stderr, flush=True)
    return code


def _announce(settings: Settings, held: Claim) -> None:
    host = _reachable(settings.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    held.announce(Holder(pid=os.getpid(), url=url, redis_url=settings.redis_url))
    server = "" if url == DEFAULT_SERVER else f" --server {url}"
    print(
        f"Espalier serves {url} (home {settings.home}). "
        f"Submit: espalier prune MODEL --data CAL.npz --out SMALL.onnx{server}. Stop: Ctrl-C.",
        flush=True,
    )


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket outlives the API process: a restart refuses nobody."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {_reason(error)}; choose another with --port") from None


def _reason(error: OSError) -> str:
    """The kernel's words alone: the socket module adds the address once more. A name that is unknown has its own."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return str(error)
    return os.strerror(error.errno)


class _Folder:
    """Where the sockets live: in the home folder, or in a private temporary one where that path is too long."""

    def __init__(self, home: Path) -> None:
        own = home / "redis"
        self._temporary = (
            tempfile.TemporaryDirectory(prefix="espalier-")
            if len(os.fsencode(own)) > LONGEST_SOCKET_PATH - 12
            else None
        )
        self._path = Path(self._temporary.name) if self._temporary else own

    def __enter__(self) -> Path:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._path

    def __exit__(self, *_: object) -> None:
        if self._temporary:
            self._temporary.cleanup()


def _programs(
    settings: Settings, environ: Mapping[str, str], listener: socket.socket, sockets: Path | None
) -> dict[str, Program]:
    env = {**environ, **settings.to_env(), "PYTHONUNBUFFERED": "1"}
    descriptor = listener.fileno()
    queue = "prune.gpu" if settings.device == "cuda" else "prune.cpu"
    worker = ("-q", "-A", "worker.app", "worker", "-Q", queue, "-c", "1", "-n", f"{queue}-{os.getpid()}@%h")
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
    programs = {
        "api": Program(
            "api", (sys.executable, "-m", "service.api", "--fd", str(descriptor)), env, pass_fds=(descriptor,)
        ),
        # Killed with us rather than asked: it would go on with its job for as long as that takes, and nobody would
        # be there to start it again. The job itself is safe: its lease runs out and another attempt begins.
        "worker": Program(
            "worker", (sys.executable, "-m", "celery", *worker, *quiet), env, death_signal=signal.SIGKILL
        ),
    }
    if sockets is not None:
        data = settings.home / "redis"
        data.mkdir(mode=0o700, exist_ok=True)
        programs["redis"] = redis_program(data, sockets / "redis.sock", environ)
    return programs


class Supervisor:
    """Starts the parts, keeps them running, and stops them in order. Runs in one thread, because it forks."""

    def __init__(
        self,
        programs: Mapping[str, Program],
        settings: Settings,
        announce: Callable[[], None],
        say: Callable[[str, str], None] = to_stderr,
    ) -> None:
        self._programs = programs
        self._settings = settings
        self._announce = announce
        self._say = say
        self._children: dict[str, Child] = {}
        self._proven: set[str] = set()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Until a signal. Raises `PartFailedError` where a part never came up."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stop.set()
            stop.cancel()
            work.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await work
            finally:
                await self._stop_all()

    def _signalled(self) -> None:
        if self._stop.is_set():
            for child in self._children.values():
                child.kill()
        self._stop.set()

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as parts:
                if "redis" in self._programs:
                    parts.create_task(self._keep("redis"))
                    await self._prove("redis", self._redis_answers)
                parts.create_task(self._keep("api"))
                parts.create_task(self._keep("worker"))
                await self._prove("api", self._api_answers)
                self._announce()
        except* PartFailedError as failures:
            raise failures.exceptions[0] from None

    async def _keep(self, name: str) -> None:
        """Start it, and start it again whenever it ends, after a pause that doubles until it has run steadily."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            child = self._children[name] = start(self._programs[name], self._say)
            how = _how(await asyncio.shield(child.ended))
            if name in STARTS_OR_FAILS and name not in self._proven:
                words = "".join(f"\n  {line}" for line in child.last_lines) or " none"
                raise PartFailedError(f"{name} did not start ({how}); its last words:{words}")
            if time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE
            self._say("serve", f"{name} {how}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _prove(self, name: str, answers: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it works. That it works once is what tells a restart from a failure to start."""
        deadline = time.monotonic() + START_SECONDS
        while not await answers():
            if time.monotonic() > deadline:
                raise PartFailedError(f"{name} did not answer within {START_SECONDS:g} s")
            await asyncio.sleep(0.03)
        self._proven.add(name)

    async def _redis_answers(self) -> bool:
        path = self._settings.redis_url.removeprefix("unix://")
        return await _answer(lambda: asyncio.open_unix_connection(path), b"PING\r\n", b"+PONG")

    async def _api_answers(self) -> bool:
        host, port = _reachable(self._settings.host), self._settings.port
        request = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        return await _answer(lambda: asyncio.open_connection(host, port), request, b"HTTP/1.1 200")

    async def _stop_all(self) -> None:
        """The API first, so that nobody submits to a service that is leaving; Redis last, because both use it."""
        for name in STOP_ORDER:
            child = self._children.get(name)
            if child is None or child.ended.done():
                continue
            child.stop()
            try:
                await asyncio.wait_for(asyncio.shield(child.ended), POLITE_SECONDS)
            except TimeoutError:
                self._say("serve", f"waiting for the {name} to finish what it does; Ctrl-C again to stop at once")
                await child.ended


async def _answer(connect: Callable[[], Awaitable[Connection]], question: bytes, start_of_answer: bytes) -> bool:
    """Whether a server gives that answer within a second."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await connect()
            try:
                writer.write(question)
                return await reader.readexactly(len(start_of_answer)) == start_of_answer
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


def _reachable(host: str) -> str:
    """The address under which a wildcard listener is found on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
