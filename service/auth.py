"""The gate: who may speak to the service, and how much they may send, before a byte of a body is read.

In: the head of a request. Out: the request, with `owner` in its state (the name of its API key, or `local`) and a
body that stops with `payload_too_large` at the limit. Refused: a missing or wrong key; a declared length above the
limit; and, without a keys file, a Host that is not a loopback name and an Origin that is not this service itself,
because any web page could otherwise send a form to a service on its visitor's machine (or reach it under a name that
resolves to 127.0.0.1).
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import EspalierError
from service.errors import problem_response
from state.settings import Settings

LOCAL_OWNER = "local"
# Read by probes, scrapers and people who have no key yet; none of these names a job or a blob.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/criteria", "/targets"})

# A key's name becomes part of Redis keys and log lines.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ApiKey:
    name: str
    digest: str  # sha256 of the key, in hex: the key itself is nowhere at rest


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file of lines `name:sha256-hex`; `#` starts a comment. Several keys may share a name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EspalierError("options_invalid", f"the API keys cannot be read: {error}", where=str(path)) from None
    keys = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, _, digest = text.partition(":")
        if not (_NAME.fullmatch(name) and _DIGEST.fullmatch(digest)):
            expected = "name:sha256 with a name of letters, digits, . _ - and 64 lower-case hex digits"
            raise EspalierError("options_invalid", f"this line is not {expected}", where=f"{path}:{number}")
        keys.append(ApiKey(name, digest))
    if not keys:
        raise EspalierError("options_invalid", "the file holds no API key, so nobody could call", where=str(path))
    return tuple(keys)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Policy:
    """Who is let in. No keys: only programs on this machine, under the owner `local`."""

    keys: tuple[ApiKey, ...]
    public_host: str
    max_upload_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        """The policy of these settings. Without keys the service must be bound to loopback."""
        if settings.api_keys_file is None and not is_loopback(settings.host):
            why = f"without API keys the service binds to loopback only, not to {settings.host}"
            try_this = "bind to 127.0.0.1, or set ESPALIER_API_KEYS_FILE (`espalier keys new NAME` makes a key)"
            raise EspalierError("options_invalid", f"{why}: {try_this}", where="ESPALIER_HOST")
        keys = () if settings.api_keys_file is None else read_keys(settings.api_keys_file)
        return cls(keys, urlsplit(settings.public_url).netloc.lower(), settings.max_upload_bytes)

    def owner(self, headers: Headers, path: str) -> str:
        """The owner of a request, from its head alone. Open paths have an empty one."""
        if not self.keys:
            self._check_page(headers)
            return LOCAL_OWNER
        if path in OPEN_PATHS:
            return ""
        return self._named(_key_in(headers))

    def check_length(self, headers: Headers) -> None:
        """Refuses a body that says itself that it is too long."""
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.max_upload_bytes:
            raise self.too_large(f"the body has {length} bytes")

    def too_large(self, what: str) -> EspalierError:
        return EspalierError("payload_too_large", f"{what}; this service takes {self.max_upload_bytes} in one request")

    def _named(self, key: str) -> str:
        """Compares with every entry, each in constant time, so that timing tells nothing about any of them."""
        if not key:
            raise EspalierError("unauthorized", "The request carries no API key.")
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        owner = ""
        for entry in self.keys:
            if hmac.compare_digest(entry.digest, digest):
                owner = entry.name
        if not owner:
            raise EspalierError("unauthorized", "The API key is not one of this service's.")
        return owner

    def _check_page(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if not (is_loopback(_without_port(host)) or (self.public_host and host == self.public_host)):
            raise EspalierError("host_forbidden", f"The request asks for the host {host[:100]!r}.", where="Host")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) not in {host, self.public_host} - {""}:
            raise EspalierError("origin_forbidden", f"The request comes from {origin[:100]!r}.", where="Origin")


class Gate:
    """The policy as ASGI middleware."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            scope["state"]["owner"] = self.policy.owner(headers, scope["path"])
            self.policy.check_length(headers)
        except EspalierError as error:
            state: Mapping[str, str] = scope["state"]
            response = problem_response(error.failure, path=scope["path"], request_id=state["request_id"])
            await response(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        """The body, stopped at the limit: a chunked one does not say beforehand how long it is."""
        seen = 0

        async def read() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.policy.max_upload_bytes:
                raise self.policy.too_large("the body goes on")
            return message

        return read


def _key_in(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def _netloc(origin: str) -> str:
    """Host and port of an Origin; of a malformed one nothing, which is nobody's."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _without_port(host: str) -> str:
    """`[::1]:8000` and `localhost:8000` without their ports."""
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0]
