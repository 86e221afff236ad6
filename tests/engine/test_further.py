"""The list of further files in a work folder."""

from pathlib import Path

import pytest

from schemas.files import FileList
from worker.engine.further import add_file


def test_files_are_listed_as_they_are_added(tmp_path: Path) -> None:
    add_file(tmp_path, "curve.csv").write_text("1,2")
    assert tmp_path / "model.c" == add_file(tmp_path, "model.c")
    listed = FileList.model_validate_json((tmp_path / "files.json").read_bytes())
    assert ("curve.csv", "model.c") == listed.files


@pytest.mark.parametrize("name", ["../up", "report.json", "curve.csv", "", "a b"])
def test_a_name_that_is_none_or_taken_is_a_fault(tmp_path: Path, name: str) -> None:
    add_file(tmp_path, "curve.csv")
    with pytest.raises(ValueError, match=r"taken|should match"):
        add_file(tmp_path, name)
