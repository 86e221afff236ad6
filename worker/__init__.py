"""The worker shell: Celery rings, an attempt runs one job in a confined process of its own, the engine does the work."""
