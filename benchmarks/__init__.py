"""Measurements against the papers and against the clock: `make bench`. Nothing here is part of the service."""
