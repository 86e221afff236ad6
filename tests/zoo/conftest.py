"""Exports and analyses are made once in a session: the files in one folder, what the engine found in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch

from tests.engine.dissect import Dissected, dissect
from tests.zoo.models import ZOO, Way, export

SAMPLES = 8
Find = Callable[..., Dissected]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are too small for two threads to help each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def taken_apart(tmp_path_factory: pytest.TempPathFactory) -> Find:
    folder: Path = tmp_path_factory.mktemp("zoo")
    known: dict[tuple[str, Way, bool], Dissected] = {}

    def find(name: str, way: Way, lossy: bool = False) -> Dissected:
        if (name, way, lossy) not in known:
            path = folder / f"{name}-{way}-{way.fold}-{way.open_batch}.onnx"
            if not path.exists():
                path.write_bytes(export(name, way))
            feeds = {f"in{index}": one for index, one in enumerate(ZOO[name].feeds(SAMPLES if way.open_batch else 1))}
            known[name, way, lossy] = dissect(onnx.load(path), folder, given=feeds, lossy=lossy)
        return known[name, way, lossy]

    return find
