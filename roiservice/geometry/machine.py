"""Machine code that numba made, run without numba.

To import numba takes longer than to build a small layer or to answer a request. Code that is there already
needs only llvmlite to put it in place and three modules of numba in C, which hold what it calls. What is
done here with them is what numba itself does (numba 0.60 to 0.68: `_load_global_helpers` in core/base.py,
`_Runtime.initialize` in core/runtime/nrt.py, `set_env` in core/codegen.py, `get_executable` in core/cpu.py).
"""

from __future__ import annotations

import builtins
import ctypes
import pickle
import sys
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]  # comes with numba

from roiservice.records import dataclass

_engines: list[Any] = []  # for good, so that what lies at a place of theirs stays the same


@dataclass(frozen=True)
class MachineCode:
    """What numba made of a function for arguments of certain types."""

    name: str
    content: bytes  # of an object file
    entry: str  # its symbol that takes and gives Python objects
    # Python objects that it gives values back with, and raises errors with: by the symbols that lead to them,
    # of the function itself first, and of those that it calls.
    constants: dict[str, list[Any]]


@cache
def numba_folder() -> Path:
    """Where numba lies, which is not imported; ImportError if it is not installed."""
    spec = find_spec("numba")
    if spec is None or spec.origin is None:
        raise ImportError("numba is not installed", name="numba")
    return Path(spec.origin).parent


def callable_of(code: MachineCode) -> Callable[..., Any]:
    """A function that runs `code`; its arguments have to be of the types for which it was made.

    Each has an engine of its own: names that numba gives to what a function calls are unique in one process,
    and the code of two may have been made by different ones.
    """
    functions = _functions()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.content))
    address = engine.get_function_address(code.entry)  # which makes it ready, and compiles no empty module
    environments = []
    for symbol, constants in code.constants.items():
        environment = functions.Environment({})
        environment.consts.extend(constants)
        pointer = ctypes.c_void_p.from_address(engine.get_global_value_address(symbol))
        pointer.value = id(environment)
        environments.append(environment)
    _engines.append(engine)
    own, held = environments[0], environments
    function: Callable[..., Any] = functions.make_function(sys, code.name, "", address, own, held)
    return function


@cache
def _functions() -> Any:
    """The module of numba that makes Python functions of machine code; all that such code calls is there."""
    functions = _extension("_dynfunc")
    memory = _extension("core", "runtime", "_nrt_python")
    memory.memsys_use_cpython_allocator()
    symbols: dict[str, int | None] = {"_Py_NoneStruct": id(None)}
    symbols |= {f"PyExc_{error.__name__}": id(error) for error in _built_in_errors()}
    for helpers in (_extension("_helperlib").c_helpers, functions.c_helpers):
        symbols |= {f"numba_{name}": address for name, address in helpers.items()}
    for name, address in memory.c_helpers.items():
        symbols[name if name.startswith("_") else f"NRT_{name}"] = address
    symbols["numba_unpickle"] = ctypes.cast(_UNPICKLE, ctypes.c_void_p).value
    for name, address in symbols.items():
        llvm.add_symbol(name, address)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return functions


def _built_in_errors() -> list[type[BaseException]]:
    known = vars(builtins).values()
    return [each for each in known if isinstance(each, type) and issubclass(each, BaseException)]


def _extension(*names: str) -> Any:
    """One of numba's modules in C, without the packages around it."""
    stem = numba_folder().joinpath(*names)
    path = next(path for suffix in EXTENSION_SUFFIXES if (path := Path(f"{stem}{suffix}")).exists())
    name = ".".join(("numba", *names))
    loader = ExtensionFileLoader(name, str(path))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    loader.exec_module(module)
    return module


@cache  # by the place, as this is asked for with each array that compiled code gives back
def _unpickle(place: int, size: int, _digest: int) -> Any:
    """A type or an error that compiled code holds: numba's own function for it would import all of numba."""
    return pickle.loads(ctypes.string_at(place, size))  # noqa: S301 - our own


_UNPICKLE = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(_unpickle)
