"""What an installation lacks for a command, said before the command begins.

In: the modules that a command imports and the extra that brings them. Out: nothing, or a `MissingExtraError` that names
both.
"""

import importlib.util

ENGINE = ("torch", "onnx", "onnx_ir", "onnxruntime", "scipy", "jinja2")
STATE = ("redis", "celery", "obstore")
EMBEDDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart", *STATE, *ENGINE)


class MissingExtraError(Exception):
    """This installation cannot run that command."""


def require(command: str, extra: str, modules: tuple[str, ...]) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{command} needs {', '.join(missing)}; install what is missing with: pip install 'espalier[{extra}]'"
        )
