"""The worker for Celery's command line: `celery -A worker.app worker`. Everything is in `worker/shell.py`."""

import os

from state.settings import Settings
from worker.shell import make_worker
from worker.station import Station

settings = Settings.from_env(os.environ)
app = make_worker(settings, Station(settings))
