"""Real OME-Zarr stores for tests, NGFF 0.1 to 0.6, written with zarr and plain JSON."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
Numbers = Sequence[float] | None


def write_image(
    path: Path,
    *,
    labels: Mapping[str, np.ndarray] | None = None,
    axes: str = "yx",
    version: str = "0.5",
    image: bool = True,
    image_axes: str | None = None,
    image_shape: Sequence[int] | None = None,
    scale: Numbers = None,
    translation: Numbers = None,
    label_scale: Numbers = None,
    label_translation: Numbers = None,
    image_label: Mapping[str, Any] | None = None,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    listed: bool = True,
) -> Path:
    """An image with labels, by their path below `labels/`; `image=False` leaves the image's pixels out.

    `axes` are those of the labels, `image_axes` and `image_shape` default to those of the first label.
    `image_label` goes to every label (None: no such key). Scales default to 1 in 0.4 and later.
    """
    labels = {} if labels is None else labels
    shape = image_shape or next((array.shape for array in labels.values()), (8, 8))
    if image:
        pixels = np.zeros(shape, np.uint8)
        write_multiscale(path, pixels, image_axes or axes, version, scale=scale, translation=translation)
    else:
        write_group(path, version, {})
    write_group(path / "labels", version, {"labels": list(labels)} if listed else {})
    for name, array in labels.items():
        extra = {} if image_label is None else {"image-label": dict(image_label)}
        write_multiscale(
            path / "labels" / name,
            array,
            axes,
            version,
            scale=label_scale,
            translation=label_translation,
            chunks=chunks,
            shards=shards,
            extra=extra,
        )
    return path


def write_multiscale(
    path: Path,
    array: np.ndarray,
    axes: str = "yx",
    version: str = "0.5",
    *,
    scale: Numbers = None,
    translation: Numbers = None,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """One multiscale group with level 0 at `0`; `extra` are further NGFF attributes."""
    entry = multiscale_metadata(axes, version, scale, translation)
    write_group(path, version, {"multiscales": [entry], **(extra or {})})
    write_array(path / "0", array, version, chunks=chunks, shards=shards)
    return path


def multiscale_metadata(
    axes: str, version: str, scale: Numbers = None, translation: Numbers = None
) -> dict[str, Any]:
    """The entry of `multiscales` with one level, as the version wants it."""
    entry: dict[str, Any] = {"name": "image", "datasets": [{"path": "0"}]}
    stated = [{"name": axis, "type": TYPES[axis]} for axis in axes]
    if not is_v3(version):
        entry["version"] = version
    if version in ("0.1", "0.2"):
        return entry
    if version == "0.3":
        return entry | {"axes": list(axes)}
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": list(scale or [1.0] * len(axes))}]
    if translation is not None:
        transforms.append({"type": "translation", "translation": list(translation)})
    if version.startswith("0.6"):
        entry["coordinateSystems"] = [{"name": "intrinsic", "axes": stated}]
        sequence = {"type": "sequence", "transformations": transforms}
        transforms = [{"input": {"path": "0"}, "output": {"name": "intrinsic"}, **sequence}]
    else:
        entry["axes"] = stated
    entry["datasets"][0]["coordinateTransformations"] = transforms
    return entry


def write_array(
    path: Path,
    array: np.ndarray,
    version: str = "0.5",
    *,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    **options: Any,
) -> None:
    """One zarr array; `options` are those of `zarr.create_array`. All-zero chunks are not stored."""
    separator = "." if version == "0.1" else "/"
    encoding = {} if is_v3(version) else {"chunk_key_encoding": {"name": "v2", "separator": separator}}
    created = zarr.create_array(
        path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=tuple(chunks or (max(size, 1) for size in array.shape)),
        shards=tuple(shards) if shards else None,
        zarr_format=3 if is_v3(version) else 2,
        fill_value=0,
        overwrite=True,
        **{**encoding, **options},
    )
    created[...] = array


def write_group(path: Path, version: str, attributes: Mapping[str, Any], **raw: Any) -> Path:
    """A group with NGFF `attributes`; `raw` go beside `ome` in zarr v3, beside the others in v2."""
    path.mkdir(parents=True, exist_ok=True)
    if is_v3(version):
        ome = {"version": version, **attributes}
        content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, **raw}}
        (path / "zarr.json").write_text(json.dumps(content))
    else:
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps({**attributes, **raw}))
    return path


def edit_attributes(group: Path, **changes: Any) -> None:
    """Change NGFF attributes of a written group; None deletes one."""
    path = group / "zarr.json" if (group / "zarr.json").exists() else group / ".zattrs"
    content = json.loads(path.read_text())
    attributes = content["attributes"]["ome"] if path.name == "zarr.json" else content
    for key, value in changes.items():
        attributes[key.replace("_", "-")] = value
        if value is None:
            del attributes[key.replace("_", "-")]
    path.write_text(json.dumps(content))


def write_plate(
    path: Path,
    fields: Mapping[str, Mapping[str, np.ndarray]],
    *,
    version: str = "0.5",
    absent_wells: Sequence[str] = (),
) -> Path:
    """A plate: field path (`A/1/0`) -> its labels. `absent_wells` are listed, but not written."""
    wells = sorted({field.rpartition("/")[0] for field in fields})
    listed = [*wells, *absent_wells]
    rows = sorted({well.split("/")[0] for well in listed})
    columns = sorted({well.split("/")[1] for well in listed})
    plate = {
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "wells": [
            {"path": well, "rowIndex": rows.index(well[0]), "columnIndex": columns.index(well.split("/")[1])}
            for well in listed
        ],
    }
    write_group(path, version, {"plate": plate})
    for well in wells:
        names = [field.rpartition("/")[2] for field in fields if field.rpartition("/")[0] == well]
        write_group(path / well, version, {"well": {"images": [{"path": name} for name in names]}})
    for field, labels in fields.items():
        write_image(path / field, labels=labels, version=version)
    return path


def zip_store(
    path: Path, suffix: str = ".ozx", *, inside: str = "", compression: int = zipfile.ZIP_STORED
) -> Path:
    """The store at `path` as an uncompressed zip beside it (RFC-9); `inside` is a folder for it there."""
    target = path.with_suffix(suffix)
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.comment = json.dumps({"ome": {"version": "0.5"}}).encode()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                archive.write(file, inside + file.relative_to(path).as_posix())
    return target


def is_v3(version: str) -> bool:
    """Whether an NGFF version lives in zarr v3."""
    return version >= "0.5"
