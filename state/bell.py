"""The doorbell: a Celery message that says "job so-and-so is waiting", and nothing else.

In: a job id and its queue. Out: whether the message was left. Refused: nothing. A bell that could not be rung is
rung by a reaper later, and one that rings twice does no harm: a job is claimed in Redis and not by its message.
"""

import logging
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from state.settings import Settings

TASK = "espalier.run"

log = logging.getLogger(__name__)


def queue_name(queue: str) -> str:
    """`cpu` -> `prune.cpu`."""
    return f"prune.{queue}"


def broker_url(redis_url: str) -> str:
    """The same Redis in kombu's words: `unix:///path?db=2` -> `redis+socket:///path?virtual_host=2`."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


def make_app(settings: Settings) -> Celery:
    """Celery as a doorbell: no result backend, no time limits, no retries; a message is spent once it is heard."""
    app = Celery("espalier", broker=broker_url(settings.redis_url), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        # The bell of a job that finds every worker busy waits in one of them; if that one dies, a reaper rings again.
        broker_transport_options={
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "max_retries": 0,
            "interval_start": 0,
            "interval_step": 0,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=queue_name("cpu"),
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        event_queue_ttl=None,
    )
    return app


class Bell:
    """Rings for jobs. Safe to share between threads; make one for each process."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)

    def ring(self, job_id: str, queue: str) -> bool:
        """Leave a message for the workers of `queue`. False where Redis would not take it."""
        try:
            self._app.send_task(TASK, args=[job_id], queue=queue_name(queue), ignore_result=True, retry=False)
        except (KombuError, RedisError, OSError) as error:
            log.warning("the bell for job %s did not ring: %s", job_id, error)
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._app.close()
