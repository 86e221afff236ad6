"""Files that are not ONNX: each is named by its first bytes, with the commands that make an ONNX file of it.

In: an uploaded file. Out: nothing, where it may be ONNX. Refused: `model_format_unsupported`, with the recipe.
"""

import json
from pathlib import Path

from schemas.errors import EspalierError
from worker.engine.torchscript import archive

HEAD_BYTES = 16

TORCH = (
    "In Python, with the class of your network: model = MyNet(); model.load_state_dict({load}); model.eval(); "
    'torch.onnx.export(model, (example_input,), "model.onnx", dynamo=False).'
)
CHECKPOINT = TORCH.format(load='torch.load("model.pt", weights_only=True)')
SAFETENSORS = (
    TORCH.format(load='safetensors.torch.load_file("model.safetensors")')
    + " A folder of the Hugging Face hub: optimum-cli export onnx --model FOLDER OUT."
)
EXPORTED = 'In Python: torch.onnx.export(torch.export.load("model.pt2"), (), "model.onnx", dynamo=True).'
PICKLE = f"{CHECKPOINT} For scikit-learn: skl2onnx.to_onnx(model, X[:1]), then write its SerializeToString()."
KERAS = (
    'In Keras 3: model.export("model.onnx", format="onnx"). In Keras 2, after model.save("folder"): '
    "python -m tf2onnx.convert --saved-model folder --output model.onnx."
)
TFLITE = "python -m tf2onnx.convert --tflite model.tflite --output model.onnx"
MOBILE = "It is for phones only. Export the original module: " + CHECKPOINT
OTHER = 'Export it with torch.onnx.export(model.eval(), (example_input,), "model.onnx") and send the .onnx file.'

HEADS = {
    b"\x80": ("a Python pickle (a PyTorch checkpoint or a scikit-learn model)", PICKLE),
    b"\x89HDF": ("an HDF5 file (Keras)", KERAS),
    b"\x93NUMPY": ("a numpy array", OTHER),
    b"GGUF": ("a GGUF file (llama.cpp)", OTHER),
    b"\x1f\x8b": ("a gzip archive", "Unpack it and send the .onnx file inside."),
    b"{": ("JSON text", OTHER),
    b"<": ("XML text (OpenVINO keeps its graph so)", OTHER),
}


def refuse_foreign(path: Path, name: str) -> None:
    """Raise for every kind of file that is known and is no ONNX."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise EspalierError("model_unreadable", "the file is empty", where=name)
    found = _kind(path, head)
    if found is not None:
        raise EspalierError("model_format_unsupported", f"this is {found[0]}, not ONNX", where=name, hint=found[1])


def _kind(path: Path, head: bytes) -> tuple[str, str] | None:
    if head.startswith(archive.ZIP_MAGIC):
        return _zipped(archive.members_of(path))
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", TFLITE
    if head[4:8] == b"PTMF":
        return "a PyTorch module for mobile interpreters", MOBILE
    if head[4:8] == b"ET12":
        return "an ExecuTorch program", MOBILE
    if _is_safetensors(path, head):
        return "a safetensors file: weights without a network", SAFETENSORS
    return next((found for magic, found in HEADS.items() if head.startswith(magic)), None)


def _zipped(members: tuple[str, ...]) -> tuple[str, str]:
    """What a zip file is, by the names in it."""
    names = set(members)
    ends = {name.rpartition("/")[2] for name in names}
    if "archive_format" in ends or "serialized_exported_program.json" in ends or any("models/" in one for one in names):
        return "a torch.export program (.pt2), which runs code of its choice when it is opened", EXPORTED
    if "model.weights.h5" in ends or {"config.json", "metadata.json"} <= ends:
        return "a Keras archive", KERAS
    if "data.pkl" in ends:
        return "a PyTorch checkpoint: weights without a network", CHECKPOINT
    if ends & {"keras_metadata.pb", "saved_model.pb"}:
        return "a zipped TensorFlow model", KERAS
    return "a zip archive (TorchScript, .pt2 or a PyTorch checkpoint, perhaps damaged)", CHECKPOINT


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Eight bytes of length, then a JSON object of that length."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or not 2 <= length <= path.stat().st_size - 8:
        return False
    with path.open("rb") as file:
        file.seek(8)
        try:
            return isinstance(json.loads(file.read(length)), dict)
        except ValueError:
            return False
