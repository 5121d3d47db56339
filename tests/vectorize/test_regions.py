"""Measures of regions against scikit-image's own of the whole plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from roiservice.vectorize import regions
from roiservice.vectorize.plane import trace_plane
from roiservice.vectorize.regions import MEASURES, region_measures
from tests.strategies import label_planes


@settings(max_examples=40)
@given(label_planes())
@pytest.mark.filterwarnings("ignore")  # of flat convex hulls, by scikit-image
def test_measures_are_those_of_the_plane(plane: NDArray[Any]) -> None:
    plane = np.unique(plane, return_inverse=True)[1].reshape(plane.shape)  # regionprops takes small labels
    labels, polygons = trace_plane([np.ascontiguousarray(plane)])
    found = region_measures(polygons, MEASURES)
    expected = regionprops_table(plane, properties=("label", *MEASURES))
    place = np.searchsorted(expected["label"], labels)
    for column, name in enumerate(MEASURES):
        assert found[:, column] == pytest.approx(expected[name][place], nan_ok=True), name


def test_a_region_in_too_large_a_box_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "LARGEST_BOX", 8)
    plane = np.zeros((4, 8), np.uint8)
    plane[0, :4], plane[2:4, 5:8] = 1, 2
    plane[1, 0] = 1
    plane[3, 0] = 1
    labels, polygons = trace_plane([plane])
    found = dict(zip(labels.tolist(), region_measures(polygons, ("extent",))[:, 0].tolist(), strict=True))
    assert np.isnan(found[1])
    assert found[2] == 1
