# ruff: noqa: ARG001 - numba says which arguments there are
"""Sixty-four comparisons in one machine word, and the ends of a word's set bits.

numba has no words for these; each is one instruction of the compiler below it, which knows how every
processor does it best.
"""

from __future__ import annotations

from typing import Any

from roiservice.geometry.compiled import told

WORD = 64


@told
def differences(typing: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """The word whose bit k tells whether `a[i + k] != b[j + k]`, for k of 0 to 63; bounds are not checked.

    `a` and `b` are contiguous arrays of one unsigned type.
    """
    from llvmlite import ir  # type: ignore[import-untyped]
    from numba import types
    from numba.core import cgutils

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item = context.get_data_type(a.dtype)
        items = ir.VectorType(item, WORD)

        def load(array: Any, first: Any) -> Any:
            proxy = cgutils.create_struct_proxy(a)  # type: ignore[no-untyped-call]
            data = proxy(context, builder, array).data
            place = builder.bitcast(builder.gep(data, [first]), items.as_pointer())
            return builder.load(place, align=context.get_abi_sizeof(item))

        unequal = builder.icmp_unsigned("!=", load(*arguments[:2]), load(*arguments[2:]))
        return builder.bitcast(unequal, ir.IntType(WORD))

    return types.uint64(a, types.uintp, b, types.uintp), emit


@told
def lowest(typing: Any, word: Any) -> Any:
    """Number of the lowest set bit of a word that is not 0."""
    from llvmlite import ir
    from numba import types

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), emit


@told
def highest(typing: Any, word: Any) -> Any:
    """Number of the highest set bit of a word that is not 0."""
    from llvmlite import ir
    from numba import types

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zeros = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return builder.sub(ir.Constant(ir.IntType(WORD), WORD - 1), zeros)

    return types.uint64(types.uint64), emit
