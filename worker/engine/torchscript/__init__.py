"""TorchScript in: an archive of `torch.jit.save` becomes the ONNX file that the engine prunes.

A TorchScript archive is a program. It is only opened where the caller says that this process may (`Limits.torchscript`:
the worker's shell says so where the process is fully confined, the command line where its user trusts the file), its
archive and its source are checked before anything is loaded, and its compiled graph once more before it runs.
"""

from worker.engine.torchscript.archive import is_torchscript, members_of
from worker.engine.torchscript.export import to_onnx, untrusted

__all__ = ["is_torchscript", "members_of", "to_onnx", "untrusted"]
