"""The instructions of a Dockerfile, as far as ours needs them: continuation lines, stages, comments."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    word: str
    rest: str

    def listed(self) -> list[str]:
        """The exec form: `CMD ["python", "-m", "x"]`."""
        start = self.rest.index("[")
        return list(json.loads(self.rest[start:]))


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[Instruction]:
        return [one for one in self.instructions if one.word == word]


def read(path: Path) -> list[Stage]:
    stages: list[Stage] = []
    for instruction in _instructions(path.read_text()):
        if instruction.word == "FROM":
            base, _, name = instruction.rest.partition(" AS ")
            stages.append(Stage(base, name, ()))
        elif stages:
            last = stages[-1]
            stages[-1] = Stage(last.base, last.name, (*last.instructions, instruction))
    return stages


def _instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    parts = [line.split(None, 1) for line in joined]
    return [Instruction(word, rest) for word, rest in parts]


def environment(stage: Stage) -> dict[str, str]:
    pairs = [pair for one in stage.all("ENV") for pair in one.rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)
