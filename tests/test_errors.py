"""Errors cross from process to process as what they are."""

from __future__ import annotations

import inspect
import pickle

import pytest

from roiservice import errors

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.RoiServiceError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_can_be_pickled(kind: type[errors.RoiServiceError]) -> None:
    # Those that state no arguments of their own take a message.
    own = inspect.isfunction(kind.__init__)
    wanted = list(inspect.signature(kind).parameters.values()) if own else []
    error = kind(*(each.name for each in wanted if each.default is each.empty))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
