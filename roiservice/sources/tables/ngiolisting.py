"""Which of Fractal's tables an image has, as ngio writes them, in its group `tables`.

The tables: https://biovisioncenter.github.io/ngio/stable/table_specs/overview/
"""

from __future__ import annotations

from typing import Any

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.groups import Group, read_group
from roiservice.sources.paths import clean_path, join
from roiservice.sources.store import Store

BACKENDS = ("anndata", "csv", "json", "parquet")
_TABLES = "tables"
BOX_TYPES = ("roi_table", "masking_roi_table")
LABEL = "label"
# What ngio takes where the attributes do not say.
INDEX_KEYS = {"roi_table": "FieldIndex", "masking_roi_table": LABEL, "feature_table": LABEL}


@dataclass(frozen=True)
class TableEntry:
    """One table: `path` is its group in the store, `name` its path below `tables/`.

    `type` as stated: `roi_table`, `masking_roi_table`, `feature_table`, `condition_table`, `generic_table`
    (also where none is stated), or another one; `version` of it, "" where not stated. `backend` is one of
    `BACKENDS`, else what is stated. `region` names the label image it is about, by its path
    below `labels/`; `index_key` and `instance_key` are the columns that name rows and tell labels. None where
    not stated.
    """

    name: str
    path: str
    zarr_format: int
    type: str
    version: str
    backend: str
    region: str | None
    index_key: str | None
    instance_key: str | None

    @property
    def has_boxes(self) -> bool:
        """Whether `ngio.read_boxes` can read it."""
        return self.type in BOX_TYPES


@dataclass(frozen=True)
class TableListing:
    """The tables of an image or plate, by name, and what is wrong with others."""

    entries: tuple[TableEntry, ...]
    problems: tuple[SourceError, ...]


def find_tables(store: Store, path: str) -> TableListing:
    """The tables of the image or plate at `path`: those that its group `tables` lists, and unlisted ones.

    An unlisted group is a table if it states a `type` or `backend`; a listed one need not exist. Raises
    nothing: what is wrong with one table is a problem and leaves the others usable.
    """
    base = join(path, _TABLES)
    entries: dict[str, TableEntry] = {}
    problems: list[SourceError] = []
    for name, listed in _names(store, base, problems).items():
        try:
            group = read_group(store, join(base, name))
            if group is not None and (listed or "type" in group.raw or "backend" in group.raw):
                entries[name] = _entry(name, group)
        except SourceError as error:
            problems.append(error)
    return TableListing(tuple(entries[name] for name in sorted(entries)), tuple(problems))


def _names(store: Store, base: str, problems: list[SourceError]) -> dict[str, bool]:
    """Names of groups to look at, and whether `tables` lists them."""
    names: dict[str, bool] = {}
    try:
        group = read_group(store, base)
        for index, stated in enumerate(_listed(store, group)):
            name = clean_path(stated)
            if name is not None:
                names[name] = True
            elif group is not None:
                reason = f"tables[{index}] is not a path below the group"
                problems.append(SourceDamaged(store.location, group.document, reason))
    except SourceError as error:
        problems.append(error)
    try:
        for child in store.children(base):
            names.setdefault(child, False)
    except SourceError as error:
        problems.append(error)
    if len(names) > store.limits.layers:
        reason = f"has {len(names)} tables; the first {store.limits.layers} are looked at"
        problems.append(SourceRefused(store.location, base, reason))
    return dict(list(names.items())[: store.limits.layers])


def _listed(store: Store, group: Group | None) -> list[Any]:
    """The list `tables`, which v3 too keeps outside `ome`."""
    stated = None if group is None else group.raw.get(_TABLES, group.attributes.get(_TABLES))
    if stated is None or group is None:
        return []
    if not isinstance(stated, list):
        raise SourceDamaged(store.location, group.document, "tables must be a list of names")
    return stated


def _entry(name: str, group: Group) -> TableEntry:
    stated = group.raw
    kind = stated.get("type")
    kind = kind if isinstance(kind, str) else "generic_table"
    version = stated.get("table_version", stated.get("fractal_table_version", ""))
    region = stated.get("region")
    return TableEntry(
        name=name,
        path=group.path,
        zarr_format=group.zarr_format,
        type=kind,
        version=str(version),
        backend=backend_named(stated.get("backend")),
        region=_region_name(region.get("path") if isinstance(region, dict) else region),
        index_key=_text(stated.get("index_key")) or INDEX_KEYS.get(kind),
        instance_key=_text(stated.get("instance_key")),
    )


def _text(stated: object) -> str | None:
    return stated if isinstance(stated, str) and stated else None


def _region_name(path: object) -> str | None:
    """Path below `labels/` of a stated path such as `../labels/nuclei`; its last segment if it names none."""
    if not isinstance(path, str):
        return None
    segments = [segment for segment in path.split("/") if segment not in ("", ".", "..")]
    start = segments.index("labels") + 1 if "labels" in segments[:-1] else -1
    return "/".join(segments[start:]) or None


def backend_named(stated: object) -> str:
    """The backend that a name of it stands for; the name itself where it is unknown.

    Old tables have none, which means AnnData; `anndata_v1` and `experimental_csv_v1` are aliases.
    """
    if stated is None:
        return "anndata"
    name = str(stated).removesuffix("_v1").removeprefix("experimental_")
    return name if name in BACKENDS else str(stated)
