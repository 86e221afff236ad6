"""The source inside a TorchScript archive, read with `ast` and never run: may it be loaded?

In: the files below code/. Out: nothing. Refused (`torchscript_refused`), all findings in one message: calls of
operators that are not in `calls`, methods that run while the archive is loaded (`__setstate__`), statements and
expressions that torch does not write, names that nothing in the archive defines, and text that Python and torch could
read differently.
"""

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping

from schemas.errors import EspalierError
from worker.engine.torchscript.calls import BUILTINS, PRIMITIVES, operator_allowed
from worker.engine.torchscript.declared import Known, annotated_field, dotted_name

SHOWN = 10
BASES = ("Module", "NamedTuple", "Enum")
METHODS = ("__init__", "__len__", "__contains__", "__getitem__")
CLASS_LISTS = ("__parameters__", "__buffers__", "__forward_hooks__", "__forward_pre_hooks__")
NUMBERS = ("inf", "nan")
ROOTS = ("torch", "ops", "CONSTANTS")
TYPED = {"annotate": 1, "unchecked_cast": 1, "uninitialized": 1}  # the first argument of these is a type
TYPE_NODES = (ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.Constant, ast.Load)

Function = ast.FunctionDef


def check(sources: Mapping[str, str], name: str) -> None:
    """Refuse the archive if any file holds what may not be loaded."""
    trees = {file: _parse(file, text, name) for file, text in sources.items()}
    known = Known()
    for file, tree in trees.items():
        known.add(file, tree)
    found = [finding for file, tree in trees.items() for finding in _Reader(file, known).module(tree)]
    if found:
        told = list(dict.fromkeys(found))
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        raise EspalierError("torchscript_refused", f"its code {', '.join(told[:SHOWN])}{more}", where=name)


def _parse(file: str, text: str, name: str) -> ast.Module:
    try:
        _same_for_both(text)
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise EspalierError("torchscript_refused", f"{file} cannot be read: {error}", where=name) from None


def _same_for_both(text: str) -> None:
    """Torch has a parser of its own. Nothing that the two could understand differently is let through."""
    if set(text) - set(map(chr, range(32, 127))) - {"\n"}:
        raise ValueError("it holds control characters")
    if any(line.endswith("\\") for line in text.split("\n")):
        raise ValueError("it continues a line with a backslash")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            raise ValueError(f"line {token.start[0]}: a comment, which torch does not write")
        plain = token.string.startswith('"') and not token.string.startswith('"""')
        if token.type == tokenize.STRING and not plain:
            raise ValueError(f"line {token.start[0]}: a string in a form that torch does not write")


class _Reader:
    """Goes through one file; every method yields what it finds wrong, as the end of a sentence."""

    def __init__(self, file: str, known: Known) -> None:
        self.file = file
        self.known = known
        self.bound: frozenset[str] = frozenset()

    def module(self, tree: ast.Module) -> Iterator[str]:
        for node in tree.body:
            if isinstance(node, Function):
                yield from self._function(node)
            elif isinstance(node, ast.ClassDef):
                yield from self._class(node)
            else:
                yield self._strange(node)

    def _strange(self, node: ast.AST) -> str:
        return f"has a {type(node).__name__} ({self.file}:{getattr(node, 'lineno', 0)}), which torch does not write"

    def _class(self, node: ast.ClassDef) -> Iterator[str]:
        if node.decorator_list or node.keywords or any(dotted_name(base) not in BASES for base in node.bases):
            yield self._strange(node)
        for inner in node.body:
            if isinstance(inner, Function):
                yield from self._method(inner)
            elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                yield from self._type(inner.annotation)
                yield from self._literal(inner.value)
            elif isinstance(inner, ast.Assign) and len(inner.targets) == 1:
                yield from self._class_value(inner)
            elif not isinstance(inner, ast.Pass):
                yield self._strange(inner)

    def _class_value(self, node: ast.Assign) -> Iterator[str]:
        target = node.targets[0]
        if annotated_field(target):
            yield from self._type(node.value)
        elif isinstance(target, ast.Name) and (target.id in CLASS_LISTS or not target.id.startswith("__")):
            yield from self._literal(node.value)
        else:
            yield self._strange(node)

    def _literal(self, node: ast.expr | None) -> Iterator[str]:
        if node is not None:
            self.bound = frozenset()
            yield from self._value(node)

    def _method(self, node: Function) -> Iterator[str]:
        if node.name.startswith("__") and node.name.endswith("__") and node.name not in METHODS:
            yield f"defines {node.name} ({self.file}:{node.lineno})"
        yield from self._function(node)

    def _function(self, node: Function) -> Iterator[str]:
        arguments = node.args
        if node.decorator_list or arguments.vararg or arguments.kwarg:
            yield self._strange(node)
        named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        self.bound = frozenset({one.arg for one in named} | set(_assigned(node)))
        for taken in sorted(self.bound & {*ROOTS, *BUILTINS, *NUMBERS, "__torch__"}):
            yield f"calls a value {taken} ({self.file}:{node.lineno}), a name that torch keeps for itself"
        for annotation in (*(one.annotation for one in named), node.returns):
            if annotation is not None:
                yield from self._type(annotation)
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                yield from self._value(default)
        yield from self._block(node.body)

    def _block(self, body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            yield from self._statement(node)

    def _statement(self, node: ast.stmt) -> Iterator[str]:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from self._target(target)
                yield from self._value(value)
            case ast.AnnAssign(target=target, annotation=annotation, value=annotated):
                yield from self._target(target)
                yield from self._type(annotation)
                if annotated is not None:
                    yield from self._value(annotated)
            case ast.Return(value=returned):
                if returned is not None:
                    yield from self._value(returned)
            case ast.Expr(value=value):
                yield from self._value(value)
            case ast.If(test=test, body=body, orelse=orelse) | ast.While(test=test, body=body, orelse=orelse):
                yield from self._value(test)
                yield from self._block(body)
                yield from self._block(orelse)
            case ast.For(target=target, iter=values, body=body, orelse=[]):
                yield from self._target(target)
                yield from self._value(values)
                yield from self._block(body)
            case ast.Pass():
                pass
            case _:
                yield self._strange(node)

    def _target(self, node: ast.expr) -> Iterator[str]:
        match node:
            case ast.Name():
                pass
            case ast.Tuple(elts=elements):
                for element in elements:
                    yield from self._target(element)
            case ast.Attribute() | ast.Subscript():
                yield from self._value(node)
            case _:
                yield self._strange(node)

    def _type(self, node: ast.expr) -> Iterator[str]:
        """Types are names, dotted names and brackets; they call nothing."""
        for inner in ast.walk(node):
            if not isinstance(inner, TYPE_NODES):
                yield self._strange(node)
            elif isinstance(inner, ast.Attribute) and dotted_name(inner).startswith("__torch__.torch.classes"):
                yield f"uses the custom class {dotted_name(inner)} ({self.file}:{node.lineno})"

    def _value(self, node: ast.expr) -> Iterator[str]:
        match node:
            case ast.Constant(value=value):
                if not isinstance(value, str | int | float | None):
                    yield self._strange(node)
            case ast.Name(id=name):
                if name not in self.bound and name not in NUMBERS:
                    yield f"uses the name {name} ({self.file}:{node.lineno})"
            case ast.Attribute():
                yield from self._attribute(node)
            case ast.Call():
                yield from self._call(node)
            case ast.List() | ast.Tuple() | ast.Dict() | ast.Subscript() | ast.Slice() | ast.UnaryOp() | ast.BinOp():
                yield from self._parts(node)
            case ast.BoolOp() | ast.Compare() | ast.IfExp():
                yield from self._parts(node)
            case _:
                yield self._strange(node)

    def _parts(self, node: ast.expr) -> Iterator[str]:
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                yield from self._value(part)

    def _attribute(self, node: ast.Attribute) -> Iterator[str]:
        dotted = dotted_name(node)
        root = dotted.partition(".")[0]
        if root == "CONSTANTS" and dotted.count(".") == 1:
            return
        if dotted in self.known.qualified:
            return
        if root in ROOTS or root.startswith("__torch__"):
            yield f"uses {dotted} ({self.file}:{node.lineno})"
            return
        if node.attr not in self.known.attributes:
            yield f"uses .{node.attr}, which no class of the archive declares ({self.file}:{node.lineno})"
        yield from self._value(node.value)

    def _call(self, node: ast.Call) -> Iterator[str]:
        dotted = dotted_name(node.func)
        skipped = 0
        if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
            skipped = TYPED.get(node.func.id, 0)
            for kind in node.args[:skipped]:
                yield from self._type(kind)
            if node.func.id == "isinstance":
                skipped = len(node.args)
                yield from self._value(node.args[0])
                for kind in node.args[1:]:
                    yield from self._type(kind)
        elif dotted.startswith(("torch.", "ops.")):
            if not _allowed(dotted):
                yield f"calls {dotted} ({self.file}:{node.lineno})"
        else:
            yield from self._value(node.func)
        for argument in node.args[skipped:]:
            yield from self._value(argument)
        if dotted == "getattr":
            yield from self._got(node)
        for keyword in node.keywords:
            yield from self._value(keyword.value)

    def _got(self, node: ast.Call) -> Iterator[str]:
        match node.args:
            case [_, ast.Constant(value=str(name))] if name in self.known.attributes:
                pass
            case _:
                yield f"gets an attribute that no class of the archive declares ({self.file}:{node.lineno})"


def _allowed(dotted: str) -> bool:
    match dotted.split("."):
        case ["torch", name] | ["ops", "aten", name]:
            return operator_allowed(name)
        case ["ops", "prim", name]:
            return name in PRIMITIVES
        case _:
            return False


def _assigned(node: Function) -> Iterator[str]:
    """Names that the function gives a value to, wherever in it."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
