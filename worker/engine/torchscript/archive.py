"""The zip archive that `torch.jit.save` writes: recognised by its directory, checked, and written anew.

In: the uploaded file. Out: what kind of zip it is, and a clean copy that holds nothing but what was checked: code,
pickles, tensors. Refused (`torchscript_refused`): bytecode for mobile interpreters, members that unpack to more than
the file explains, names that occur twice or leave the archive, pickles that build anything but tensors, containers and
the archive's own classes, and whatever `code.check` refuses.
"""

import pickletools
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import EspalierError
from worker.engine.torchscript import code

ZIP_MAGIC = b"PK\x03\x04"
MAX_MEMBERS = 200_000
MAX_CODE_BYTES = 16 << 20
MAX_PICKLE_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20

PICKLES = ("data.pkl", "constants.pkl")
TENSORS = ("data/", "constants/")
PLAIN = ("version", ".data/version", "byteorder")

# What a pickle of tensors, containers and modules names, beside the archive's own classes.
GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch device",
        "torch Size",
        *(f"torch.jit._pickle build_{kind}list" for kind in ("int", "tensor", "double", "bool")),
        "torch.jit._pickle restore_type_tag",
        *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char")),
        *(f"torch {kind}Storage" for kind in ("Byte", "Bool")),
    }
)
# Opcodes that look something up by a name which is not in the stream, or in another way than `GLOBAL`.
FOREIGN_OPCODES = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"})


def members_of(path: Path) -> tuple[str, ...]:
    """The names inside a zip file, without their common folder; none where it is no readable zip file."""
    try:
        with path.open("rb") as file:
            if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
                return ()
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return ()
    roots = {name.partition("/")[0] for name in names}
    return tuple(name.partition("/")[2] for name in names) if len(roots) == 1 else tuple(names)


def is_torchscript(path: Path) -> bool:
    """Whether the file is what `torch.jit.save` writes (or its like for mobile interpreters)."""
    names = members_of(path)
    return "data.pkl" in names and ("constants.pkl" in names or any(name.startswith("code/") for name in names))


def checked_copy(path: Path, target: Path, name: str) -> None:
    """Write to `target` the members that were checked, and only those."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _directory(archive, path.stat().st_size, name)
            sources = {one: _text(archive, info, name) for one, info in members.items() if one.endswith(".py")}
            code.check(sources, name)
            for one in PICKLES:
                if one in members:
                    _check_pickle(archive.read(members[one]), one, name)
            _rewrite(archive, members, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise _refused(f"the archive is damaged or incomplete: {error}", name) from None


def _refused(detail: str, name: str) -> EspalierError:
    return EspalierError("torchscript_refused", detail, where=name)


def _directory(archive: zipfile.ZipFile, file_bytes: int, name: str) -> dict[str, zipfile.ZipInfo]:
    """The members by their names below the one folder, judged before any is read."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise _refused(f"the archive has {len(infos):,} members; at most {MAX_MEMBERS:,} are read", name)
    root = infos[0].filename.partition("/")[0] if infos else ""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        folder, _, inner = info.filename.partition("/")
        if folder != root or not inner or ".." in inner.split("/") or "\\" in inner:
            raise _refused(f"member {info.filename!r} lies outside the archive's folder", name)
        if inner in members:
            raise _refused(f"the archive holds {inner!r} twice", name)
        members[inner] = info
    if "bytecode.pkl" in members:
        raise _refused("it is bytecode for mobile interpreters, which is loaded without any check", name)
    for needed in PICKLES:
        if needed not in members:
            raise _refused(f"the archive has no {needed}", name)
    _check_sizes(members, file_bytes, name)
    return {one: info for one, info in members.items() if _kept(one)}


def _kept(member: str) -> bool:
    """Source maps, traced inputs and extra files are not needed, and not looked at."""
    source = member.startswith("code/") and member.endswith(".py")
    return source or member in PICKLES or member in PLAIN or member.startswith(TENSORS)


def _check_sizes(members: dict[str, zipfile.ZipInfo], file_bytes: int, name: str) -> None:
    """Torch stores tensors as they are; what unpacks to more than the file holds is no model of its own making."""
    for one, info in members.items():
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(f"member {one!r} is encrypted, or packed in a way that torch does not use", name)
        if one in PICKLES and info.file_size > MAX_PICKLE_BYTES:
            raise _refused(f"member {one!r} unpacks to {info.file_size:,} bytes", name)
    source = sum(info.file_size for one, info in members.items() if one.endswith(".py"))
    if source > MAX_CODE_BYTES:
        raise _refused(f"its code unpacks to {source:,} bytes; at most {MAX_CODE_BYTES:,} are read", name)
    total = sum(info.file_size for info in members.values())
    allowed = file_bytes + MAX_CODE_BYTES + MAX_PICKLE_BYTES
    if total > allowed:
        raise _refused(f"{file_bytes:,} bytes unpack to {total:,}: more than a model's archive does", name)


def _text(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> str:
    try:
        return archive.read(info).decode("ascii")
    except UnicodeDecodeError:
        raise _refused(f"{info.filename} is not plain ASCII", name) from None


def _check_pickle(stream: bytes, member: str, name: str) -> None:
    """Nothing is unpickled here: the opcodes are read, and the names among them compared."""
    for foreign in _foreign(stream):
        raise _refused(f"{member} wants {foreign}, which is no tensor, container or class of the archive", name)


def _foreign(stream: bytes) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in FOREIGN_OPCODES:
            yield f"opcode {opcode.name}"
        elif opcode.name == "GLOBAL" and not _known(str(argument)):
            yield str(argument).replace(" ", ".")


def _known(argument: str) -> bool:
    own = argument.startswith(("__torch__ ", "__torch__.")) and not argument.startswith("__torch__.torch.classes")
    return own or argument in GLOBALS


def _rewrite(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as clean:
        for one, info in members.items():
            with archive.open(info) as source, clean.open(f"model/{one}", "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)
