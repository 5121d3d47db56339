"""Affine maps, and the transformation lists of SpatialData and NGFF 0.6."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from roiservice.geometry.frames import Frame
from roiservice.sources.tables.affine import Affine, Placement, placements_of

NUMBERS = st.floats(-100, 100, allow_subnormal=False)
AFFINES = st.builds(Affine, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
POINTS = np.array([[0.0, 0.0], [3.0, 1.0], [-2.5, 7.0], [100.0, -40.0]])
TURN = [[0.0, 1.0, 5.0], [-1.0, 0.0, 300.0]]  # on (x, y): x' = y + 5, y' = 300 - x


def matrix(affine: Affine) -> np.ndarray[Any, Any]:
    rows = [[affine.xx, affine.xy, affine.x0], [affine.yx, affine.yy, affine.y0], [0, 0, 1]]
    return np.array(rows)


def system(axes: str, name: str | None = None) -> dict[str, Any]:
    return {"name": name or axes, "axes": [{"name": axis, "type": "space"} for axis in axes]}


def entry(
    kind: str, value: Any, axes: str = "xy", to: str = "global", out: str | None = None
) -> dict[str, Any]:
    """One transformation as SpatialData writes it."""
    key = "transformations" if kind == "sequence" else kind
    return {"type": kind, key: value, "input": system(axes), "output": system(out or axes, to)}


def only(*items: Any, axes: str = "xy") -> Placement:
    placements, problems = placements_of(list(items), tuple(axes))
    assert problems == ()
    (placement,) = placements.values()
    return placement


def problem(*items: Any, axes: str = "xy") -> str:
    placements, problems = placements_of(list(items), tuple(axes))
    assert placements == {}
    (text,) = problems
    return text


@given(AFFINES, AFFINES)
def test_composition_is_the_product_of_matrices(first: Affine, second: Affine) -> None:
    both = first.then(second)
    assert np.allclose(matrix(both), matrix(second) @ matrix(first), rtol=1e-9, atol=1e-6)
    assert np.allclose(both.apply(POINTS), second.apply(first.apply(POINTS)), rtol=1e-9, atol=1e-4)


@given(AFFINES)
def test_the_inverse_leads_back(affine: Affine) -> None:
    assume(abs(affine.determinant) > 1e-3)
    assert np.allclose(Affine().relative_to(affine).apply(affine.apply(POINTS)), POINTS, rtol=1e-6, atol=1e-3)


@given(AFFINES)
def test_relative_to_itself_is_exactly_the_identity(affine: Affine) -> None:
    assume(not affine.is_singular)
    assert affine.relative_to(affine) == Affine()


@pytest.mark.parametrize(
    "affine",
    [Affine(0, 0, 1, 0, 0, 1), Affine(1, 0, 0, 0, 0, 0), Affine(1, 2, 0, 2, 4, 0), Affine(xx=math.nan)],
)
def test_what_collapses_the_plane_has_no_inverse(affine: Affine) -> None:
    assert affine.is_singular
    with pytest.raises(ValueError, match="no inverse"):
        Affine().relative_to(affine)


def test_small_scales_are_not_singular() -> None:
    assert not Affine(xx=1e-7, yy=1e-7).is_singular
    back = Affine().relative_to(Affine(xx=1e-7, yy=1e-7)).apply(np.array([[1e-7, 2e-7]]))
    assert np.allclose(back, [[1, 2]], rtol=1e-12)


@given(AFFINES)
def test_radii_of_a_circle_are_half_its_box_where_its_axes_are_not_tilted(affine: Affine) -> None:
    assume(abs(affine.determinant) > 1)
    angle = np.linspace(0, 2 * np.pi, 40_001)
    circle = affine.apply(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    half = np.ptp(circle, axis=0) / 2
    radii = affine.circle_radii()
    if radii is not None:
        assert np.allclose(radii, half, rtol=1e-6)
        at = circle - (affine.x0, affine.y0)
        assert np.allclose((at**2 / np.square(radii)).sum(axis=1), 1, rtol=1e-5)


def test_turns_keep_circles_and_shears_tilt_them() -> None:
    turned = Affine(math.cos(0.3), -math.sin(0.3), 4, math.sin(0.3), math.cos(0.3), 5)
    assert turned.is_uniform
    assert not turned.is_translation_scale
    assert turned.then(Affine().relative_to(turned)).is_translation_scale
    assert turned.circle_radii() == pytest.approx((1, 1))
    assert Affine(0, -3, 0, 2, 0, 0).circle_radii() == (3, 2)  # a quarter turn and unequal scales
    assert not Affine(0, -3, 0, 2, 0, 0).is_uniform
    assert Affine(xy=0.5).circle_radii() is None
    assert not Affine(xy=0.5).is_uniform


def test_a_frame_is_a_positive_scale_and_a_translation() -> None:
    assert Affine(xx=2, x0=3, yy=4, y0=5).frame() == Frame(2, 4, 3, 5)
    assert Affine(xx=-1).frame() is None
    assert Affine(0, 1, 0, 1, 0, 0).frame() is None
    assert Affine(xx=math.inf).frame() is None
    assert Affine(x0=math.inf).frame() is None
    assert Affine(xx=3 * (0.1 / 0.3), x0=1e-13, yx=1e-17).frame() == Frame()


def test_points_of_any_type_are_mapped_to_float64() -> None:
    mapped = Affine(xx=2, y0=1).apply(np.array([[1, 2], [3, 4]], np.int32))
    assert mapped.dtype == np.float64
    assert mapped.tolist() == [[2, 3], [6, 5]]
    assert Affine().apply(np.empty((0, 2))).shape == (0, 2)
    wild = Affine(xx=1e300).apply(np.array([[math.inf, 1], [math.nan, 1], [1e300, 1]]))
    assert not np.isfinite(wild[:, 0]).any()


def test_numbers_belong_to_the_axes_by_name() -> None:
    assert only(entry("scale", [2, 3])).xy == Affine(xx=2, yy=3)
    assert only(entry("scale", [1, 3, 2], "cyx")).xy == Affine(xx=2, yy=3)
    assert only(entry("translation", [7, 3, 2], "zyx")) == Placement(Affine(x0=2, y0=3), (1, 7))
    assert only(entry("identity", None, "yx")).xy == Affine()


def test_matrix_rows_follow_the_output_and_columns_the_input() -> None:
    expected = Affine(0, 1, 5, -1, 0, 300)
    assert only(entry("affine", TURN)).xy == expected
    # One and the same map as SpatialData writes it for images, (c, y, x) to (c, x, y).
    rows = [[1, 0, 0, 0], [0, 1, 0, 5], [0, 0, -1, 300]]
    assert only(entry("affine", rows, "cyx", out="cxy")).xy == expected
    # And for points in space, (x, y, z) to (z, x, y).
    rows = [[0, 0, 1, 0], [0, 1, 0, 5], [-1, 0, 0, 300]]
    assert only(entry("affine", rows, "xyz", out="zxy")) == Placement(expected, (1, 0))


def test_sequences_apply_in_order_and_may_be_nested() -> None:
    scale, move = entry("scale", [2, 2]), entry("translation", [10, -5])
    assert only(entry("sequence", [scale, move])).xy == Affine(xx=2, yy=2, x0=10, y0=-5)
    assert only(entry("sequence", [move, scale])).xy == Affine(xx=2, yy=2, x0=20, y0=-10)
    inner = entry("sequence", [move, entry("affine", TURN)])
    assert only(entry("sequence", [scale, inner])).xy == Affine(0, 2, 0, -2, 0, 290)
    assert only(entry("sequence", [])).xy == Affine()


def test_steps_of_a_sequence_may_reorder_axes_and_leave_some_out() -> None:
    rows = [[1, 0, 0, 0], [0, 1, 0, 5], [0, 0, -1, 300]]
    steps = [entry("translation", [0, 2, 1], "zyx"), entry("affine", rows, "zyx", out="zxy")]
    steps += [entry("scale", [2, 1, 1], "zxy"), entry("scale", [10], "x")]
    placed = only(entry("sequence", steps, "zyx", out="zxy"), axes="zyx")
    assert placed == Placement(Affine(0, 10, 70, -1, 0, 299), (2, 0))


def test_steps_without_axes_take_those_before_them() -> None:
    steps = [{"type": "scale", "scale": [3, 2]}, {"type": "affine", "affine": [[0, 1, 0], [1, 0, 4]]}]
    item = {"type": "sequence", "transformations": steps, "input": "a", "output": "global"}
    assert only(item, axes="yx").xy == Affine(0, 3, 4, 2, 0, 0)


def test_axes_are_mapped_by_name_or_by_number() -> None:
    swapped = Affine(0, 1, 0, 1, 0, 0)
    assert only(entry("mapAxis", {"x": "y", "y": "x"}, "cyx", out="cxy")).xy == swapped
    assert only(entry("mapAxis", [0, 2, 1], "cyx")).xy == swapped
    assert only(entry("mapAxis", [0, 2, 1], "cyx", out="cxy")).xy == Affine()
    assert "no axis y" in problem(entry("mapAxis", {"x": "y"}))


def test_every_system_gets_its_placement_and_the_last_of_two_counts() -> None:
    items = [entry("identity", None), entry("scale", [2, 2], to="um"), entry("scale", [3, 3], to="um")]
    placements, problems = placements_of(items, ("x", "y"))
    assert placements == {"global": Placement(Affine()), "um": Placement(Affine(xx=3, yy=3))}
    assert problems == ()


def test_a_bad_entry_leaves_the_others() -> None:
    placements, problems = placements_of([entry("scale", [1]), entry("identity", None, to="um")], ("x", "y"))
    assert list(placements) == ["um"]
    assert problems == ("coordinateTransformations[0].scale: must be a list of 2 finite numbers",)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (entry("scale", [1, math.nan]), "[0].scale: must be a list of 2 finite numbers"),
        (entry("scale", [1, math.inf]), "2 finite numbers"),
        (entry("scale", [1, 10**400]), "2 finite numbers"),
        (entry("scale", [1, True]), "2 finite numbers"),
        (entry("scale", ["1", 2]), "2 finite numbers"),
        (entry("translation", [1, 2, 3]), "[0].translation: must be a list of 2"),
        (entry("translation", None), "2 finite numbers"),
        (entry("affine", TURN[:1]), "one row per output axis (x, y)"),
        (entry("affine", [[1, 0], [0, 1]]), "[0].affine[0]: must be a list of 3"),
        (entry("affine", [[1, 0, 0], [0, math.nan, 0]]), "[0].affine[1]: must be a list of 3"),
        (entry("affine", [[1, 0, 1, 0], [0, 1, 0, 0]], "xyz", out="xy"), "x depends on axis 'z'"),
        (entry("mapAxis", {"x": "q", "y": "x"}), "mapAxis: must give an input axis"),
        (entry("mapAxis", [0, 2]), "mapAxis: must give an input axis"),
        (entry("mapAxis", [0, [1]]), "mapAxis: must give an input axis"),
        (entry("mapAxis", {"x": [], "y": "x"}), "mapAxis: must give an input axis"),
        (entry("mapAxis", 3), "mapAxis: must give an input axis"),
        (entry("sequence", 3), "transformations must be a list"),
        (entry("sequence", [3]), "[0].transformations[0]: must be a JSON object"),
        (entry("sequence", [entry("scale", [1])]), "[0].transformations[0].scale: must be"),
        (entry("sequence", [entry("scale", [1, 1], "xz")]), "input axis 'z' is not there"),
        (entry("sequence", [entry("scale", [1e200, 1e200])] * 2), "numbers are too large"),
        (entry("sequence", [entry("affine", [[1e300, 1e300, 0]] * 2)] * 2), "numbers are too large"),
        (entry("sequence", [entry("affine", [[1, 0]], "x", out="y")]), "gives axis 'y', which is there"),
        (entry("scale", [1, 0]), "[0]: it collapses the plane"),
        (entry("affine", [[1, 2, 0], [2, 4, 0]]), "collapses the plane"),
        (entry("rotation", [0, 1, 1, 0]), "type 'rotation' is not supported"),
        (entry("scale", [1, 1], "xy", out="yx"), "same axes before and after"),
        (entry("identity", None, "zq"), "there is no axis x"),
        (entry("identity", None, "xx"), "names of axes must be unique"),
        ({"type": "identity", "output": {"name": "a", "axes": [{}]}}, "[0].output.axes: must be a list"),
        ({"type": "identity", "output": {"name": "a", "axes": 3}}, "[0].output.axes: must be a list"),
        (
            {"type": "identity", "input": system("abcdefghxy"), "output": "a"},
            "[0].input.axes: must be a list",
        ),
        ({"type": "identity"}, "[0]: output.name must name"),
        ({"type": "identity", "output": {"name": 3}}, "output.name must name"),
        (3, "[0]: output.name must name"),
    ],
)
def test_what_cannot_be_used_is_named(item: Any, text: str) -> None:
    assert text in problem(item)
    assert problem(item).startswith("coordinateTransformations[0]")


def test_too_many_axes_of_the_element_itself_are_refused() -> None:
    assert "12 axes" in problem({"type": "identity", "output": "a"}, axes="abcdefghijxy")


def test_a_list_is_needed() -> None:
    assert placements_of({"a": 1}, ("x", "y")) == ({}, ("coordinateTransformations must be a list",))
    assert placements_of([], ("x", "y")) == ({}, ())


def test_z_that_depends_on_more_than_z_gives_none() -> None:
    rows = [[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert only(entry("affine", rows, "zyx")).z is None
    assert only(entry("affine", [[0, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0]], "zyx")).z == (0, 4)


KEYS = st.sampled_from(
    [
        "type",
        "scale",
        "translation",
        "affine",
        "mapAxis",
        "transformations",
        "input",
        "output",
        "name",
        "axes",
    ]
)
WORDS = st.sampled_from(["x", "y", "z", "global", "scale", "affine", "mapAxis", "sequence", "identity", ""])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)
STEPS = st.fixed_dictionaries(
    {"type": st.sampled_from(["scale", "translation", "affine", "mapAxis", "sequence", "identity"])},
    optional={
        "scale": ANYTHING,
        "translation": st.lists(st.floats(), min_size=2, max_size=2),
        "affine": st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=2, max_size=2) | ANYTHING,
        "mapAxis": ANYTHING,
        "transformations": st.lists(ANYTHING, max_size=2),
        "input": ANYTHING,
        "output": st.just("global") | ANYTHING,
    },
)


@given(st.lists(STEPS | ANYTHING, max_size=3))
def test_any_list_gives_placements_or_problems(items: list[Any]) -> None:
    placements, problems = placements_of(items, ("x", "y"))
    assert len(placements) + len(problems) <= len(items)
    for placement in placements.values():
        assert not placement.xy.is_singular
