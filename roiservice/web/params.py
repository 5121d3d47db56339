"""Request parameters, parsed into plain values; no request and no app is needed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl

from werkzeug.datastructures import MultiDict

from roiservice.errors import BadParameter, NotFound
from roiservice.query.cursor import START
from roiservice.query.detail import EXACT, FULL, GEOMETRIES, Detail
from roiservice.query.select import RoiQuery, Span
from roiservice.records import dataclass

Arguments = MultiDict[str, str]
Pairs = tuple[tuple[str, str], ...]
Filters = tuple[tuple[str, int], ...]
Parsed = TypeVar("Parsed")
Parse = TypeVar("Parse", bound=Callable[..., Any])

# jQuery adds the time under the first name to defeat caches; the other is a credential, looked at elsewhere.
IGNORED = frozenset({"_", "ticket"})
LONGEST_KEPT = 1000  # bytes of a query string whose meaning is remembered
LARGEST = 2**53 - 1  # ids and offsets beyond it cannot be told apart in JavaScript
_WHOLE = re.compile(r"-?[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?", re.ASCII)
_LABEL = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_INDICES = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True)
class Paging:
    """`limit` as it is applied, that is already cut to the largest allowed."""

    limit: int
    offset: int


@dataclass(frozen=True)
class Selection:
    """Which features are asked for; `filters` are the filters in one canonical spelling, in one order.

    `properties` are conditions on the objects' own properties, which `with_properties` understands once the
    layer is known.
    """

    query: RoiQuery
    filters: Pairs
    properties: Pairs


@dataclass(frozen=True)
class ItemsParams(Selection):
    """What an items request asks for; `filters` also hold what else all links of its pages share.

    `limit` is None where none was given. Where the request `is_whole`, nothing says that less than everything
    is asked for: formats that are streamed send that, others one page of the default size. `f` is the
    format's name, None where it was not given. `cursor` tells where the page begins, None if `offset` does;
    `largest` is the number of features that is enough, `vertices` that of their vertices.
    """

    f: str | None
    limit: int | None
    offset: int
    detail: Detail = FULL
    largest: int | None = None
    vertices: int | None = None
    cursor: str | None = START
    is_whole: bool = True


def check_known(arguments: Arguments, known: frozenset[str]) -> None:
    """BadParameter for a parameter that is not known, or that is given twice and is no list."""
    for name, values in arguments.lists():
        if name in IGNORED:
            continue
        if name not in known:
            choices = ", ".join(sorted(known)) or "none"
            raise BadParameter(name, f"there is no such parameter here; known are: {choices}")
        if len(values) > 1 and name != "label":
            raise BadParameter(name, "is given more than once")


def paging(arguments: Arguments, default: int, largest: int) -> Paging:
    """`limit` and `offset` of our own paths: a limit above the largest is cut, one below 1 is refused."""
    limit = _optional(arguments, "limit", _limit)
    offset = _optional(arguments, "offset", _offset) or 0
    return Paging(min(default if limit is None else limit, largest), offset)


def lenient_paging(arguments: Arguments, default: int, largest: int) -> Paging:
    """`limit` and `offset` as OMERO.web takes them.

    A negative limit means the default, one above the largest is cut, 0 asks for counts alone, and a negative
    offset means 0. BadParameter for what is no number.
    """
    arguments = _last_of_each(arguments)
    limit = _optional(arguments, "limit", _whole)
    offset = _optional(arguments, "offset", _whole) or 0
    if limit is None or limit < 0:
        limit = default
    return Paging(min(limit, largest), max(offset, 0))


FILTERS = frozenset({"bbox", "bbox-crs", "crs", "z", "t", "c", "label", "min-area"})
LARGEST_FEATURES = ("max-features", "max-vertices")
ITEMS = FILTERS | {"limit", "offset", "cursor", "geometry", "simplify", *LARGEST_FEATURES, "f"}
DENSITY = FILTERS | {"cells"}
CELLS, CELLS_MAX = 64, 512  # of a density grid, along the longer side


def _kept(parse: Parse) -> Parse:
    """Remember what was made of the latest query strings, as clients ask for the same page again and again.

    Not of long ones: thousands of labels take a megabyte when they are parsed.
    """
    remembered = lru_cache(512)(parse)

    @wraps(parse)
    def parsed(query_string: bytes, *others: Any) -> Any:
        return (remembered if len(query_string) <= LONGEST_KEPT else parse)(query_string, *others)

    return cast(Parse, parsed)


@_kept
def items(query_string: bytes, pixel_crs: str, limit_max: int) -> ItemsParams:
    """All parameters of an items request; `pixel_crs` is the only frame there is."""
    arguments = _arguments(query_string)
    chosen = _selection(arguments, pixel_crs, ITEMS)
    limit = _optional(arguments, "limit", _limit)
    vertices = _optional(arguments, "max-vertices", _limit)
    largest = _optional(arguments, "max-features", _limit) or (None if vertices is None else limit_max)
    by_offset = "offset" in arguments or largest is not None
    for names, paged in ((LARGEST_FEATURES, ("limit", "offset", "cursor")), (("cursor",), ("offset",))):
        for name in names:
            if name in arguments and any(other in arguments for other in paged):
                raise BadParameter(name, f"does not go together with {' or '.join(paged)}")
    return ItemsParams(
        query=chosen.query,
        filters=(*chosen.filters, *_as_given(arguments)),
        properties=chosen.properties,
        f=arguments.get("f"),
        limit=None if limit is None else min(limit, limit_max),
        offset=_optional(arguments, "offset", _offset) or 0,
        detail=_detail(arguments),
        largest=None if largest is None else min(largest, limit_max),
        vertices=vertices,
        cursor=None if by_offset else arguments.get("cursor", START),
        is_whole=not any(name in arguments for name in ("limit", "cursor", *LARGEST_FEATURES)),
    )


@_kept
def selection(query_string: bytes, pixel_crs: str) -> Selection:
    """The filters of a request that takes nothing else."""
    return _selection(_arguments(query_string), pixel_crs, FILTERS)


@_kept
def density(query_string: bytes, pixel_crs: str) -> tuple[Selection, int]:
    """The filters of a request for a grid, and its number of cells along the longer side."""
    arguments = _arguments(query_string)
    return _selection(arguments, pixel_crs, DENSITY), _optional(arguments, "cells", _cells) or CELLS


def _arguments(query_string: bytes) -> Arguments:
    return Arguments(parse_qsl(query_string.decode(errors="replace"), keep_blank_values=True))


def _selection(arguments: Arguments, pixel_crs: str, known: frozenset[str]) -> Selection:
    """The filters; whatever is no `known` parameter must be a property."""
    properties = tuple(
        sorted((name, text) for name, text in arguments.items() if name not in known | IGNORED)
    )
    check_known(arguments, known | {name for name, _ in properties})
    for name in ("crs", "bbox-crs"):
        if arguments.get(name, pixel_crs) != pixel_crs:
            raise BadParameter(name, f"the only frame is {pixel_crs}")
    numbers = _optional(arguments, "bbox", _bbox_numbers)
    query = RoiQuery(
        t=_optional(arguments, "t", indices),
        c=_optional(arguments, "c", indices),
        z=_optional(arguments, "z", indices),
        labels=_labels(arguments),
        min_area=_optional(arguments, "min-area", _area) or 0.0,
    )
    if numbers is not None:
        query = _with_box(query, numbers)
    return Selection(query, (*_canonical(arguments, query, numbers), *properties), properties)


def _detail(arguments: Arguments) -> Detail:
    geometry = arguments.get("geometry", EXACT)
    if geometry not in GEOMETRIES:
        raise BadParameter("geometry", f"is one of {', '.join(GEOMETRIES)}")
    simplify = _optional(arguments, "simplify", _tolerance) or 0.0
    if simplify and geometry != EXACT:
        raise BadParameter("simplify", f"goes together with geometry={EXACT} only")
    if "max-vertices" in arguments and geometry != EXACT:
        raise BadParameter("max-vertices", f"goes together with geometry={EXACT} only")
    return Detail(geometry, simplify)


def _as_given(arguments: Arguments) -> Pairs:
    """What else belongs into all links of a page: what is drawn, and how many of the largest."""
    names = ("geometry", "simplify", *LARGEST_FEATURES)
    return tuple((name, arguments[name]) for name in names if name in arguments)


def indices(text: str) -> Span:
    """One index (`3`) or an inclusive range (`2-5`), counted from 0; ValueError otherwise."""
    match = _INDICES.fullmatch(text)
    if match is None:
        raise ValueError("is an index or a range of indices, such as 3 or 2-5")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise ValueError("the range ends before it starts")
    return first, last


def _optional(arguments: Arguments, name: str, parse: Callable[[str], Parsed]) -> Parsed | None:
    """The parsed value, None where the parameter is absent; a ValueError becomes a BadParameter."""
    text = arguments.get(name)
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise BadParameter(name, str(error)) from None


def _limit(text: str) -> int:
    limit = _whole(text)
    if limit < 1:
        raise ValueError("is a whole number from 1 upward")
    return limit


def _offset(text: str) -> int:
    offset = _whole(text)
    if offset < 0:
        raise ValueError("is a whole number from 0 upward")
    return offset


def _whole(text: str) -> int:
    """A whole number of any length, cut to what all parts of the service can hold."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    if len(text) > 16:  # int() refuses thousands of digits
        return -LARGEST if text.startswith("-") else LARGEST
    return max(min(int(text), LARGEST), -LARGEST)


def finite(text: str) -> float:
    """A decimal number; float() alone would take `1_0`, `nan` and the digits of other scripts as well."""
    if not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text) + 0.0  # there is one zero only: equal queries have one spelling


def _tolerance(text: str) -> float:
    try:
        tolerance = finite(text)
    except ValueError:
        tolerance = -1.0
    if tolerance < 0:
        raise ValueError("is a distance in pixels, 0 or more")
    return tolerance


def _cells(text: str) -> int:
    cells = _whole(text)
    if not 1 <= cells <= CELLS_MAX:
        raise ValueError(f"is a whole number from 1 to {CELLS_MAX}")
    return cells


def _area(text: str) -> float:
    try:
        area = finite(text)
    except ValueError:
        area = -1.0
    if area < 0:
        raise ValueError("is an area in pixels, 0 or more")
    return area


def _bbox_numbers(text: str) -> tuple[float, ...]:
    """`x0,y0,x1,y1` or `x0,y0,z0,x1,y1,z1`, each lower bound not above its upper one."""
    try:
        numbers = tuple(finite(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (4, 6):
        raise ValueError("is four or six numbers in pixels, such as 0,0,512,512")
    half = len(numbers) // 2
    if any(low > high for low, high in zip(numbers[:half], numbers[half:], strict=True)):
        raise ValueError("a lower bound is above its upper bound")
    return numbers


def _with_box(query: RoiQuery, numbers: tuple[float, ...]) -> RoiQuery:
    """Narrow the query to a box; in z, plane k reaches from k up to, but not including, k + 1."""
    if len(numbers) == 4:
        x0, y0, x1, y1 = numbers
        return replace(query, bbox=(x0, y0, x1, y1))
    x0, y0, z0, x1, y1, z1 = numbers
    low, high = (math.floor(min(max(bound, -1.0), 2.0**31)) for bound in (z0, z1))
    if query.z is not None:
        low, high = max(low, query.z[0]), min(high, query.z[1])
    return replace(query, bbox=(x0, y0, x1, y1), z=(low, high))


def _labels(arguments: Arguments) -> tuple[int, ...] | None:
    """Label values, from repeated parameters and comma lists alike; sorted, without repeats."""
    texts = [part for text in arguments.getlist("label") for part in text.split(",")]
    if not texts:
        return None
    if not all(_LABEL.fullmatch(text) for text in texts):
        raise BadParameter("label", "is one label value or several with commas between them")
    return tuple(sorted({int(text) for text in texts}))


def _canonical(arguments: Arguments, query: RoiQuery, numbers: tuple[float, ...] | None) -> Pairs:
    """The filters in one spelling: equal selections give equal links and cache keys."""
    filters: dict[str, str] = {}
    if numbers is not None:
        filters["bbox"] = ",".join(map(_shortest, numbers))
    for name in ("bbox-crs", "crs"):
        if name in arguments:
            filters[name] = arguments[name]
    for name in ("z", "t", "c"):
        if name in arguments:
            first, last = indices(arguments[name])
            filters[name] = str(first) if first == last else f"{first}-{last}"
    if query.labels is not None:
        filters["label"] = ",".join(map(str, query.labels))
    if query.min_area > 0:
        filters["min-area"] = _shortest(query.min_area)
    return tuple(filters.items())


def _shortest(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < LARGEST else repr(number)


def _last_of_each(arguments: Arguments) -> Arguments:
    """Of parameters that are repeated the last, as Django takes them."""
    return MultiDict({name: values[-1] for name, values in arguments.lists()})


def image_id(arguments: Arguments) -> int:
    """The image of OMERO's `?image=`; NotFound without one, so that a proxy may ask OMERO.web instead."""
    number = _optional(_last_of_each(arguments), "image", _whole)
    if number is None:
        raise NotFound("name the image whose ROIs you want, as in ?image=1")
    return number


def omeros_filters(arguments: Arguments) -> Filters:
    """Whose ROIs OMERO is asked for, and in which group; ours have neither. BadParameter for no number."""
    arguments = _last_of_each(arguments)
    given = ((name, _optional(arguments, name, _whole)) for name in ("owner", "group"))
    return tuple((name, number) for name, number in given if number is not None)
