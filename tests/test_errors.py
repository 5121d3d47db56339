"""Errors cross from process to process as what they are."""

from __future__ import annotations

import copy
import copyreg
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


@pytest.mark.parametrize("keeps_all", [False, True])
def test_renewed_errors_know_nothing_of_where_they_were_raised(
    keeps_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some library has copies bring that along, as those of clusters do."""
    if keeps_all:
        pickling_support = pytest.importorskip("tblib.pickling_support")
        monkeypatch.setattr(copyreg, "dispatch_table", copyreg.dispatch_table.copy())
        monkeypatch.setattr(copy, "dispatch_table", copyreg.dispatch_table)
        pickling_support.install(errors.SourceDamaged)
    try:
        raise errors.SourceDamaged("store", "part", "reason") from ValueError("before")
    except errors.SourceDamaged as error:
        again = errors.renewed(error)
    assert (again.__traceback__, again.__context__, again.__cause__) == (None, None, None)
    assert (again.store, again.part, again.reason) == ("store", "part", "reason")
