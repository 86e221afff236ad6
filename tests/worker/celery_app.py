"""The worker as Celery starts it, with a launcher whose jobs do as their model file says."""

import os

from state.settings import Settings
from tests.worker.conftest import JOBS
from worker.shell import make_worker
from worker.station import Station

settings = Settings.from_env(os.environ)
app = make_worker(settings, Station(settings, launcher=JOBS))
