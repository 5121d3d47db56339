"""Importing this loads what takes longest in a process that builds layers.

It is for the process that others are forked from: these find all of it there.
"""

from __future__ import annotations

import gc

import numpy as np

from roiservice.vectorize.plane import trace_plane

trace_plane([np.zeros((1, 1), np.uint8)])  # the first compiled loop takes a third of a second to load
gc.freeze()  # all this stays: who looks for garbage needs not look at it, nor write to memory that is shared
