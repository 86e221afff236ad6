"""The generated C program takes its activations from one arena, laid out by the plan of `worker.engine.arena`.

The generator gives every intermediate value an array of its own on the stack. Here its entry function, a list of arrays
and a list of calls, is read again, the values' lives are worked out from the calls, and the function is written anew
with each value at its place in the arena. Operators compute in place, and copies that only change a shape go, as in the
estimate.

In: the generated source. Out: a `Program`. Refused (`device_operator_unsupported`): an entry function with anything
else in it, naming the operator where that is known.
"""

import re
from dataclasses import dataclass
from math import prod

from schemas.errors import EspalierError
from worker.engine import arena
from worker.engine.arena import Block
from worker.engine.ops import RULES

SIZES = {
    "float": 4, "double": 8, "_Bool": 1, "bool": 1, "int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2,
    "int32_t": 4, "uint32_t": 4, "int64_t": 8, "uint64_t": 8,
}  # fmt: skip

ENTRY = re.compile(r"^void model\((?P<params>[^)]*)\) \{\n(?P<body>.*?)^\}\n", re.MULTILINE | re.DOTALL)
VALUE = re.compile(r"(?P<const>const )?(?P<kind>\w+) (?P<name>\w+)(?P<dims>(\[\d+\])+)")
CALL = re.compile(r"(?P<function>node(?P<node>\d+)_\w*)\((?P<args>[\w, ]*)\);")
FUNCTION = re.compile(r"^EMX_NODE_FN void (?P<name>node\d+_\w*)\((?P<params>[^)]*)\) \{", re.MULTILINE)
OPERATOR = re.compile(r"^ \* Node (?P<node>\d+):\n \* OpType: (?P<operator>\S+)$", re.MULTILINE)
WEIGHT = re.compile(r"^(?:static )?const (?:EMX_UNUSED )?\w+ (\w+)\[", re.MULTILINE)

# Places of the arena hold values of several types one after the other, and calls may be inlined into one function.
HEADER = """#pragma GCC optimize("no-strict-aliasing")
#define EMX_NODE_FN static __attribute__((noinline, unused))
"""


@dataclass(frozen=True)
class Value:
    name: str
    kind: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.dims) * SIZES[self.kind]

    def pointer(self, name: str) -> str:
        """A declaration of a pointer to it, of the type that an array parameter of these dimensions has."""
        return f"{self.kind} (*{name}){''.join(f'[{size}]' for size in self.dims[1:])}"


@dataclass(frozen=True)
class Call:
    function: str
    operator: str
    args: tuple[str, ...]
    written: frozenset[str]


@dataclass(frozen=True)
class Place:
    value: Value
    offset: int


@dataclass(frozen=True)
class Program:
    """Source with `model_run`, which computes inside `model_arena`, and where its inputs and outputs lie there."""

    source: str
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    arena_bytes: int


@dataclass(frozen=True)
class _Entry:
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    values: dict[str, Value]
    calls: tuple[Call, ...]


def planned(source: str) -> Program:
    """The program with its activations in one arena."""
    entry = ENTRY.search(source)
    if entry is None:
        raise _unknown("the generated program has no entry function of the known form")
    read = _read(source, entry)
    owner, kept = _places(read)
    names = list(dict.fromkeys(owner.values()))
    plan = arena.plan([_block(read, kept, owner, name) for name in names])
    offsets = dict(zip(names, plan.offsets, strict=True))
    at = {name: offsets[owner[name]] for name in read.values}
    inputs = tuple(Place(one, at[one.name]) for one in read.inputs)
    outputs = tuple(Place(one, at[one.name]) for one in read.outputs)
    body = _written(read, kept, at, plan.bytes)
    text = HEADER + source[: entry.start()] + body + source[entry.end() :]
    return Program(_without_loader(text), inputs, outputs, plan.bytes)


def _unknown(detail: str, where: str = "") -> EspalierError:
    return EspalierError("device_operator_unsupported", detail, where=where)


# ---- reading


def _read(source: str, entry: re.Match[str]) -> _Entry:
    operators = {int(one["node"]): one["operator"] for one in OPERATOR.finditer(source)}
    writes = {one["name"]: _written_slots(one["params"]) for one in FUNCTION.finditer(source)}
    inputs: list[Value] = []
    outputs: list[Value] = []
    for text in filter(None, entry["params"].split(", ")):
        (inputs if text.startswith("const ") else outputs).append(_value(text))
    values = {one.name: one for one in (*inputs, *outputs)}
    calls = []
    for line in entry["body"].splitlines():
        text = line.strip()
        if (call := CALL.fullmatch(text)) is not None:
            calls.append(_call(call, operators, writes))
        elif text:
            one = _value(text.removesuffix(";"))
            values[one.name] = one
    known = {*values, *WEIGHT.findall(source)}
    for made in calls:
        if strange := [name for name in made.args if name not in known]:
            raise _unknown(f"the generated program hands {strange[0]} to it", made.operator)
    return _Entry(tuple(inputs), tuple(outputs), values, tuple(_late(calls, values)))


def _value(text: str) -> Value:
    found = VALUE.fullmatch(text)
    if found is None or found["kind"] not in SIZES:
        raise _unknown(f"the generated program has a value of no static size: {text[:80]}")
    return Value(found["name"], found["kind"], tuple(int(size) for size in re.findall(r"\d+", found["dims"])))


def _written_slots(params: str) -> tuple[bool, ...]:
    return tuple(not one.startswith("const ") for one in params.split(", "))


def _call(found: re.Match[str], operators: dict[int, str], writes: dict[str, tuple[bool, ...]]) -> Call:
    args = tuple(filter(None, found["args"].split(", ")))
    operator = operators.get(int(found["node"]), "")
    slots = writes.get(found["function"], ())
    if len(slots) != len(args):
        raise _unknown("the generated program calls it with other than arrays", operator)
    written = frozenset(name for name, writes_it in zip(args, slots, strict=True) if writes_it)
    return Call(found["function"], operator, args, written)


def _late(calls: list[Call], values: dict[str, Value]) -> list[Call]:
    """What reads weights alone (widening quantised ones) is done just before somebody reads the result, so that its
    place is taken no longer than need be."""
    waiting: dict[str, Call] = {}
    found: list[Call] = []
    for call in calls:
        reads = [name for name in call.args if name in values and name not in call.written]
        for name in reads:
            if name in waiting:
                early = waiting[name]
                found.append(early)
                waiting = {one: other for one, other in waiting.items() if other is not early}
        if reads:
            found.append(call)
        else:
            waiting |= dict.fromkeys(call.written, call)
    return [*found, *dict.fromkeys(waiting.values())]


# ---- placing


def _places(entry: _Entry) -> tuple[dict[str, str], list[Call]]:
    """For each value the value whose place it shares (or itself), and the calls that still have something to do."""
    last = {name: step for step, call in enumerate(entry.calls) for name in call.args}
    last |= {one.name: len(entry.calls) for one in entry.outputs}
    owner = {one.name: one.name for one in entry.inputs}
    until = {name: last.get(name, 0) for name in owner}
    kept = []
    for step, call in enumerate(entry.calls):
        rule = RULES.get(call.operator)
        reads = [name for name in call.args if name in owner and name not in call.written]
        target = next((name for name in call.args if name in call.written), None)
        shared = None
        if rule is not None and target is not None and reads:
            shared = _shared(entry, call, target, reads, owner, {name for name in reads if until[owner[name]] == step})
        for name in call.written:
            place = owner[shared] if shared is not None and name == target else name
            owner[name] = place
            until[place] = max(until.get(place, 0), last.get(name, step))
        if shared is None or rule is None or not _is_view(call):
            kept.append(call)
    for one in entry.outputs:
        owner.setdefault(one.name, one.name)
    return owner, kept


def _is_view(call: Call) -> bool:
    return call.operator == "Identity" or RULES[call.operator].alias


def _shared(
    entry: _Entry, call: Call, target: str, reads: list[str], owner: dict[str, str], dying: set[str]
) -> str | None:
    """The value whose place the first output takes over: a view's source, or an input that nobody reads later."""
    value = entry.values[target]
    fitting = [name for name in reads if entry.values[name].bytes == value.bytes]
    if _is_view(call):
        return reads[0] if reads[0] in fitting and len(call.written) == 1 else None
    if not RULES[call.operator].in_place:
        return None
    for name in fitting:
        same = [one for one in reads if owner[one] == owner[name]]
        alike = all((entry.values[one].dims, entry.values[one].kind) == (value.dims, value.kind) for one in same)
        if name in dying and alike:
            return name
    return None


def _block(entry: _Entry, kept: list[Call], owner: dict[str, str], place: str) -> Block:
    """The life of a place, in steps of the calls that are left."""
    members = {name for name, own in owner.items() if own == place}
    steps = [step for step, call in enumerate(kept) if members & set(call.args)]
    first = 0 if members & {one.name for one in entry.inputs} else min(steps, default=0)
    last = len(kept) if members & {one.name for one in entry.outputs} else max(steps, default=first)
    return Block(max(entry.values[name].bytes for name in members), first, last)


# ---- writing


def _written(entry: _Entry, kept: list[Call], at: dict[str, int], arena_bytes: int) -> str:
    """The new entry function, and pointers to the places of inputs and outputs."""
    lines = [
        "/*",
        " * All activations lie in one arena. Write the inputs to their places, call model_run, read the outputs from",
        " * theirs. The place of an input may be taken over by later values: write it before every run.",
        " */",
        f"static _Alignas(8) unsigned char model_arena[{max(arena_bytes, 1)}];",
    ]
    for role, values in (("input", entry.inputs), ("output", entry.outputs)):
        for number, one in enumerate(values):
            lines.append(f"/* {one.name} {list(one.dims)} */")
            lines.append(f"{one.kind} *const model_{role}_{number} = ({one.kind} *)(model_arena + {at[one.name]});")
    lines += ["", "void model_run(void) {"]
    used = {name for call in kept for name in call.args}
    lines += [
        f"    {value.pointer(name)} = (void *)(model_arena + {at[name]});"
        for name, value in entry.values.items()
        if name in used
    ]
    lines += [f"    {call.function}({', '.join(call.args)});" for call in kept]
    return "\n".join([*lines, "}", ""])


def _without_loader(text: str) -> str:
    """The generator's loader of weights has nothing to load: they are constants."""
    return re.sub(r"^_Bool model_load\(const char \*path\) \{\n.*?^\}\n\n?", "", text, flags=re.MULTILINE | re.DOTALL)
