"""NGFF metadata of groups and multiscales, versions 0.1 to 0.6. Reads JSON only, never arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

from roiservice.errors import SourceDamaged
from roiservice.records import dataclass
from roiservice.sources.groups import Group
from roiservice.sources.paths import clean_path
from roiservice.sources.store import Store
from roiservice.sources.transforms import Transform, combined, is_plain, transform_of

KNOWN_VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")


@dataclass(frozen=True)
class Level:
    """One resolution level.

    `path` is relative to the multiscale's group. `scale` (positive) and `translation` are in axes order, in
    the axes' units; None where not stated or not usable.
    """

    path: str
    scale: tuple[float, ...] | None
    translation: tuple[float, ...] | None


@dataclass(frozen=True)
class Multiscale:
    """The first multiscale of a group.

    `axes` are the names in array order, None in 0.1 and 0.2 (then the last ones of t, c, z, y, x); `types`
    and `units` are what is stated of each, and `space` the indices of those of type space. `levels` has at
    least one.
    """

    axes: tuple[str, ...] | None
    types: tuple[str | None, ...]
    units: tuple[str | None, ...]
    space: tuple[int, ...]
    levels: tuple[Level, ...]
    version: str
    name: str | None
    warnings: tuple[str, ...]


def has_multiscales(group: Group) -> bool:
    """Whether the group claims to be a multiscale, sound or not; `[]` and null claim nothing."""
    return group.attributes.get("multiscales") not in (None, [])


def multiscale_of(store: Store, group: Group) -> Multiscale | None:
    """The group's first multiscale; None if it has none.

    Raises SourceDamaged if axes or the first dataset cannot be used. Whatever level 0 can do without gives
    a warning instead.
    """
    if not has_multiscales(group):
        return None
    multiscales = group.attributes["multiscales"]
    if not isinstance(multiscales, list) or not isinstance(multiscales[0], dict):
        raise SourceDamaged(store.location, group.document, "multiscales must be a list of JSON objects")
    entry: dict[str, Any] = multiscales[0]
    warnings: list[str] = []
    if len(multiscales) > 1:
        warnings.append(f"{group.document}: only the first of {len(multiscales)} multiscales is used")
    version = _version(group, entry, warnings)
    axes = _axes(store, group, entry)
    names = None if axes is None else tuple(axis.name for axis in axes)
    types = () if axes is None else tuple(axis.kind for axis in axes)
    units = () if axes is None else tuple(axis.unit for axis in axes)
    space = tuple(index for index, kind in enumerate(types) if kind == "space")
    levels = _levels(store, group, entry, None if axes is None else len(axes), warnings)
    name = entry.get("name")
    return Multiscale(
        names, types, units, space, levels, version, name if isinstance(name, str) else None, tuple(warnings)
    )


def _version(group: Group, entry: dict[str, Any], warnings: list[str]) -> str:
    """The stated version, "" if none: inside the multiscale up to 0.4, beside it since 0.5."""
    stated = group.attributes.get("version") if group.zarr_format == 3 else None
    stated = entry.get("version") if stated is None else stated
    if isinstance(stated, bool) or not isinstance(stated, str | int | float):
        warnings.append(f"{group.document}: states no NGFF version")
        return ""
    version = str(stated)
    # SpatialData writes "0.5-dev-spatialdata"; drafts of 0.6 are "0.6rc0", "0.6.dev1", ...
    if version.startswith("0.6"):
        warnings.append(f"{group.document}: NGFF {version} is a draft; only scales and translations are used")
    elif not version.startswith(KNOWN_VERSIONS):
        warnings.append(f"{group.document}: NGFF version {version} is unknown; read as the newest known")
    return version


class _Axis(NamedTuple):
    name: str
    kind: str | None
    unit: str | None


def _axes(store: Store, group: Group, entry: dict[str, Any]) -> list[_Axis] | None:
    """The axes, in array order; None where there are none (0.1, 0.2)."""
    axes = entry.get("axes")
    if axes is None:
        axes = _intrinsic_axes(entry)
    if axes is None:
        return None
    if not isinstance(axes, list) or not axes:
        raise SourceDamaged(store.location, group.document, "axes must be a list")
    found = [_axis(axis) for axis in axes]
    named = [axis for axis in found if axis is not None]
    if len(named) < len(found):
        raise SourceDamaged(store.location, group.document, "every axis must have a name")
    if len({axis.name for axis in named}) < len(named):
        raise SourceDamaged(store.location, group.document, "names of axes must be unique")
    return named


def _axis(axis: Any) -> _Axis | None:
    """One axis: a bare name in 0.3, an object since 0.4; None if there is no name."""
    if isinstance(axis, str):
        return _Axis(axis, None, None)
    if not isinstance(axis, dict) or not isinstance(axis.get("name"), str):
        return None
    kind, unit = axis.get("type"), axis.get("unit")
    return _Axis(
        axis["name"], kind if isinstance(kind, str) else None, unit if isinstance(unit, str) else None
    )


def _intrinsic_axes(entry: dict[str, Any]) -> Any:
    """Axes of the coordinate system that the first dataset's transform leads to (0.6), else of the first."""
    systems = entry.get("coordinateSystems")
    if not isinstance(systems, list):
        return None
    systems = [system for system in systems if isinstance(system, dict)]
    target = _output_name(entry)
    for system in systems:
        if target is not None and system.get("name") == target:
            return system.get("axes")
    return systems[0].get("axes") if systems else None


def _output_name(entry: dict[str, Any]) -> str | None:
    """Name of the coordinate system at the end of the first dataset's transform (0.6)."""
    value: Any = entry
    for key in ("datasets", 0, "coordinateTransformations", 0, "output"):
        if isinstance(key, str) and isinstance(value, dict):
            value = value.get(key)
        elif isinstance(key, int) and isinstance(value, list) and len(value) > key:
            value = value[key]
        else:
            return None
    name = value.get("name") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def _levels(
    store: Store, group: Group, entry: dict[str, Any], length: int | None, warnings: list[str]
) -> tuple[Level, ...]:
    """All levels up to the first unusable one; SourceDamaged if that is level 0."""
    datasets = entry.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        raise SourceDamaged(store.location, group.document, "datasets must be a list with at least one entry")
    outer = combined(
        [item for item in _list(entry.get("coordinateTransformations")) if is_plain(item)], length
    )
    levels: list[Level] = []
    for index, dataset in enumerate(datasets):
        path = clean_path(dataset.get("path")) if isinstance(dataset, dict) else None
        if path is None:
            message = f"datasets[{index}].path must be a path below the group"
            if index == 0:
                raise SourceDamaged(store.location, group.document, message)
            warnings.append(f"{group.document}: {message}")
            break
        levels.append(_level(path, transform_of(dataset, length), outer, group, warnings))
    return tuple(levels)


def _level(path: str, inner: Transform, outer: Transform, group: Group, warnings: list[str]) -> Level:
    whole = inner.then(outer)
    if whole.problem is not None:
        warnings.append(f"{group.document}: transform of {path} ignored: {whole.problem}")
        return Level(path, None, None)
    return Level(path, whole.scale, whole.translation)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
