"""The worker shell: Celery rings, an attempt runs one job in a confined process, the engine works."""
