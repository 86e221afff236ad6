"""What the source inside a TorchScript archive declares itself.

In: parsed files. Out: the names of their functions, classes, fields and methods. Nothing is refused.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Known:
    """What the archive itself defines: functions and classes by their full names; fields and methods."""

    qualified: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)

    def add(self, file: str, tree: ast.Module) -> None:
        module = file.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.qualified.add(f"{module}.{node.name}")
            if isinstance(node, ast.ClassDef):
                self.attributes |= set(_declared(node))


def _declared(node: ast.ClassDef) -> Iterator[str]:
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef):
            yield inner.name
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            yield inner.target.id
        elif isinstance(inner, ast.Assign):
            yield from (target.id for target in inner.targets if isinstance(target, ast.Name))
            yield from filter(None, (annotated_field(target) for target in inner.targets))


def annotated_field(target: ast.expr) -> str:
    """The field that `__annotations__["0"] = ...` declares."""
    if isinstance(target, ast.Subscript) and dotted_name(target.value) == "__annotations__":
        return str(target.slice.value) if isinstance(target.slice, ast.Constant) else ""
    return ""


def dotted_name(node: ast.expr) -> str:
    """`a.b.c` as a text; empty where it is something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted_name(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""
