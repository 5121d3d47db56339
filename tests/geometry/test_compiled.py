"""Tests of how inner loops are compiled and kept."""

from __future__ import annotations

import subprocess
import sys

TRACE = """
import sys
import numpy as np
from roiservice.vectorize.plane import trace_plane
labels, polygons = trace_plane([np.full((2, 3), 7, np.uint32)])
print(labels.tolist(), polygons.xy.tolist(), "scipy.linalg" in sys.modules)
"""


def test_what_was_compiled_before_is_loaded_without_the_compiler() -> None:
    def traced() -> str:
        return subprocess.run(
            [sys.executable, "-c", TRACE], check=True, capture_output=True, text=True
        ).stdout

    traced()  # it may have to be compiled
    assert traced() == "[7] [[0, 0], [3, 0], [3, 2], [0, 2]] False\n"
