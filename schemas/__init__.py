"""The contract between the people who call Espalier, the service and the workers.

Only pydantic and the standard library; no I/O; imports neither shell.
"""
