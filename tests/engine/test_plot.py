"""Curves as SVG: where things lie, and that texts are text."""

import xml.etree.ElementTree as ET

import pytest

from worker.engine.render.plot import COLOURS, Line, plot, sheet, ticks

SVG = "{http://www.w3.org/2000/svg}"


def places(drawing: str) -> list[list[tuple[float, float]]]:
    """The corners of each curve."""
    found = ET.fromstring(drawing).iter(f"{SVG}polyline")  # our own drawing
    return [[tuple(map(float, corner.split(","))) for corner in one.attrib["points"].split()] for one in found]


def test_higher_is_higher_and_later_is_further_right() -> None:
    ((a, b, c),) = places(plot("t", "x", "y", [Line("", ((0, 1, 0), (1, 3, 0), (2, 2, 0)))]))
    assert a[0] < b[0] < c[0]
    assert a[1] > c[1] > b[1]  # down is more in SVG
    assert pytest.approx((a[1] + b[1]) / 2) == c[1]


def test_curves_are_told_apart_and_named() -> None:
    lines = [Line("one", ((0, 1, 0), (1, 2, 0))), Line("two", ((0, 2, 0.5), (1, 1, 0)))]
    drawing = plot("t", "x", "y", lines, flat=1.5)
    assert 2 == len(places(drawing))
    assert all(colour in drawing for colour in COLOURS[:2])
    assert ">one</text>" in drawing
    assert "stroke-dasharray" in drawing
    assert drawing.count("<circle") == 4
    assert drawing.count('opacity=".5"') == 1  # the one deviation that is not zero


def test_the_legend_keeps_clear_of_the_name_of_the_axis() -> None:
    drawing = plot("t", "axis", "y", [Line("one", ((0, 1, 0), (1, 2, 0)))])
    lines = {one.text: float(one.attrib["y"]) for one in ET.fromstring(drawing).iter(f"{SVG}text")}  # our own drawing
    assert lines["one"] - lines["axis"] >= 16


def test_names_are_text() -> None:
    drawing = plot("<t>", '"x', "y&", [Line("</svg><script>", ((0, 1, 0),))])
    texts = [one.text for one in ET.fromstring(drawing).iter(f"{SVG}text")]  # our own drawing
    assert {"<t>", '"x', "y&", "</svg><script>"} <= set(texts)


def test_what_is_no_number_is_left_out() -> None:
    drawing = plot("t", "x", "y", [Line("", ((0, 1, 0), (1, float("inf"), 0), (2, 2, 0)))])
    assert [2] == [len(one) for one in places(drawing)]
    assert [0] == [len(one) for one in places(plot("t", "x", "y", [Line("", ())]))]


def test_a_sheet_has_one_drawing_under_another() -> None:
    one = plot("t", "x", "y", [Line("", ((0, 1, 0), (1, 2, 0)))])
    other = plot("u", "x", "y", [Line("named", ((0, 1, 0), (1, 2, 0)))])  # taller by its legend
    root = ET.fromstring(sheet([one, other]))  # our own drawing
    inner = [child for child in root if child.tag == f"{SVG}svg"]
    heights = [int(child.attrib["height"]) for child in inner]
    assert heights[0] < heights[1]
    assert ["0", str(heights[0])] == [child.attrib["y"] for child in inner]
    assert f"0 0 640 {sum(heights)}" == root.attrib["viewBox"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([37, 91], [20, 40, 60, 80, 100]),
        ([0.0026, 0.0026], [0.001, 0.002, 0.003, 0.004]),
        ([-3, 7], [-4, -2, 0, 2, 4, 6, 8]),
        ([0, 0], [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_are_round_and_reach_around(values: list[float], expected: list[float]) -> None:
    assert pytest.approx(expected) == ticks(values)
