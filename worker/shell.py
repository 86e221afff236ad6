"""The worker as Celery sees it: one pool process, one job at a time, and what happens when it starts and ends.

In: the settings and a station. Out: a Celery app that listens on the queue of the station's device. A first SIGTERM
lets the running job finish; a second one ends everything at once, and the job is tried again elsewhere.
"""

import logging
import os
import signal
import sys
import warnings

from celery import Celery, signals
from celery.exceptions import SecurityWarning

from schemas.errors import EspalierError
from state.bell import make_app, queue_name
from state.settings import Settings
from worker.station import Station
from worker.tasks import add_tasks

# How long Celery waits for a pool process to say that it is up; loaded machines take their time.
POOL_START_SECONDS = 60.0

log = logging.getLogger(__name__)


def make_worker(settings: Settings, station: Station) -> Celery:
    """Celery with the task, and the station opened in the one pool process."""
    app = make_app(settings)
    app.conf.update(
        task_default_queue=queue_name(station.queue),
        worker_pool="prefork",
        worker_concurrency=1,
        # A job behind a busy worker would wait for that one, whoever else is idle.
        worker_disable_prefetch=True,
        worker_proc_alive_timeout=POOL_START_SECONDS,
    )
    # Celery warns root of pickled messages; ours are JSON and no other kind is accepted (state/bell.py).
    warnings.filterwarnings("ignore", category=SecurityWarning)
    add_tasks(app, station)
    life = _Life(station)
    signals.worker_init.connect(life.begin, weak=False)
    signals.worker_process_init.connect(life.pool_started, weak=False)
    signals.worker_process_shutdown.connect(life.pool_ended, weak=False)
    signals.worker_shutting_down.connect(life.asked_to_end, weak=False)
    signals.setup_logging.connect(_set_up_logging, weak=False)
    return app


class _Life:
    """What happens when, in Celery's main process and in its pool process."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._main_pid = 0
        self._asked = 0

    def begin(self, **_: object) -> None:
        self._main_pid = os.getpid()

    def pool_started(self, **_: object) -> None:
        try:
            self._station.open(self._main_pid)
        except EspalierError:
            # A pool without a station would answer every bell with an error; without a worker, somebody looks.
            log.exception("the worker cannot start")
            os.kill(self._main_pid, signal.SIGTERM)

    def pool_ended(self, **_: object) -> None:
        self._station.close()

    def asked_to_end(self, **_: object) -> None:
        """Celery would ignore the second request; the pool process dies with this one, and its children with it."""
        self._asked += 1
        if self._asked > 1:
            os._exit(1)


def _set_up_logging(loglevel: int | str = logging.INFO, **_: object) -> None:
    logging.basicConfig(
        level=loglevel, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
