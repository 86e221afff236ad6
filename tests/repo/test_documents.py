"""The documentation against the code: settings, options, commands, links."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from schemas.criteria import CRITERIA
from schemas.request import Amount, Constraints, Evaluation, Preprocess, PruneRequest, Scope
from schemas.sweep import MOST_POINTS, CompareRequest, SurfaceRequest, SweepRequest
from service.cli import build_parser
from state.settings import OTHERS, Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SETTING = re.compile(r"^\| `(ESPALIER_[A-Z_]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
SECTIONS: dict[str, type[BaseModel]] = {
    "amount": Amount,
    "scope": Scope,
    "preprocess": Preprocess,
    "evaluation": Evaluation,
    "constraints": Constraints,
}


def settings_rows(text: str) -> dict[str, tuple[str, str]]:
    return {name: (default, words) for name, default, words in SETTING.findall(text)}


def test_every_setting_is_documented_as_it_is() -> None:
    documented = settings_rows((ROOT / "docs/settings.md").read_text())
    expected = {
        f"ESPALIER_{name.upper()}": ("none" if field.default in (None, "") else f"`{field.default}`", field.description)
        for name, field in Settings.model_fields.items()
    }
    assert {*expected, *OTHERS} == set(documented)
    assert expected == {name: row for name, row in documented.items() if name in expected}


def test_a_setting_that_is_documented_otherwise_is_noticed() -> None:
    text = (ROOT / "docs/settings.md").read_text()
    assert settings_rows(text) != settings_rows(text.replace("`8000`", "`8001`", 1))
    assert settings_rows(text) != settings_rows(text.replace("loopback only", "anywhere", 1))


def option_paths() -> set[str]:
    paths = set()
    for name, field in PruneRequest.model_fields.items():
        if name in SECTIONS:
            fields = SECTIONS[name].model_fields.items()
            paths |= {f"{name}.{inner.alias or key}" for key, inner in fields}
        else:
            paths.add("criterion.name" if name == "criterion" else field.alias or name)
    return paths


def test_the_options_table_is_complete() -> None:
    table = (ROOT / "README.md").read_text().split("## Options")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = [path for cell in first_cells for path in re.findall(r"`([^`]+)`", cell)]
    assert option_paths() == set(documented)
    assert len(documented) == len(set(documented))


def test_the_criteria_are_named_in_the_options_table() -> None:
    row = re.search(r"^\| `criterion\.name` \|.*?\|(.*?);", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    assert sorted(CRITERIA) == sorted(re.findall(r"`([a-z0-9_]+)`", row[1]))


def test_the_options_of_sweeps_and_comparisons_are_documented() -> None:
    table = (ROOT / "docs/http.md").read_text().split("## Sweep and compare")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = [path for cell in first_cells for path in re.findall(r"`([^`]+)`", cell)]
    expected = {*SweepRequest.model_fields, *CompareRequest.model_fields}
    expected |= {f"surface.{name}" for name in SurfaceRequest.model_fields}
    assert expected == set(documented)
    assert f"{MOST_POINTS} points at most" in table


def test_the_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?m)(?:^|`)espalier ([a-z][a-z-]+)(?= |`|,|$)", readme))
    parser = build_parser({})
    known = next(iter(action.choices for action in parser._actions if action.dest == "command"))
    assert set(known or ()) == named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?\bmake ([a-z][a-z-]*)\b(?=[ `\n]*(?:`|\n|PIP|PYTEST|  ))", page.read_text()))
    assert named <= targets


def test_no_page_names_a_package_registry() -> None:
    registries = re.compile("|".join(["pypi" + r"\.", "download" + r"\.pytorch", "pythonhosted"]))
    files = [*PAGES, ROOT / "Dockerfile", ROOT / "Makefile", ROOT / "docker-compose.yml", ROOT / "pyproject.toml"]
    assert [] == [str(file) for file in files if registries.search(file.read_text())]
    assert registries.search("https://pypi" + ".org/simple")
