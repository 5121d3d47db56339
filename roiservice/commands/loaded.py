"""Importing this loads what takes longest in a process that builds layers.

It is for the process that others are forked from: these find all of it there.
"""

from __future__ import annotations

import gc

import numpy as np

import roiservice.catalog.build  # noqa: F401
from roiservice.memory import use_memory_freely
from roiservice.vectorize.plane import trace_plane

use_memory_freely()
for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
    trace_plane([np.zeros((1, 1), dtype)])
gc.freeze()  # all this stays: who looks for garbage needs not look at it, nor write to memory that is shared
