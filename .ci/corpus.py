"""Export every label plane of the sample stores and compare it with the truth; damaged stores must fail well.

Usage: corpus.py SHARED, the folder with data/ and tools/validate.py. Exit code 1 if anything differs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROISERVICE = [sys.executable, "-m", "roiservice"]
SECONDS = 2.0  # of processor time, beyond what start-up takes: loading libraries and compiled loops
MEGABYTES = 500

# Damaged stores: exit code of a whole export, what its message must say, layers that must be written.
DAMAGED: dict[str, tuple[int, str, int]] = {
    "v04_axes_too_many": (1, r"axes", 0),
    "v04_axes_unknown_type": (0, r"", 1),
    "v04_chunk_empty_file": (1, r"chunk", 0),
    "v04_chunk_truncated": (1, r"chunk", 0),
    "v04_chunks_huge": (1, r"chunk", 0),
    "v04_codec_unknown": (1, r"codec", 0),
    "v04_dataset_path_missing": (0, r"", 1),
    "v04_image_label_missing": (0, r"", 1),
    "v04_json_truncated": (1, r"\.zattrs", 0),
    "v04_labels_key_missing": (0, r"", 1),
    "v04_labels_list_traversal": (1, r"labels\[", 1),
    "v04_rgba_bad": (0, r"", 1),
    "v04_scale_bad": (0, r"", 1),
    "v04_shape_huge": (1, r"pixels|shape", 0),
    "v04_version_float_axes_strings": (0, r"", 1),
    "v05_axes_swapped_xy": (0, r"", 1),
    "v05_chunk_absent": (0, r"", 1),
    "v05_chunk_truncated": (1, r"chunk", 0),
    "v05_codec_unknown": (1, r"codec", 0),
    "v05_float32_labels": (1, r"float32", 0),
    "v05_labels_list_ghost": (0, r"", 1),
    "v05_multiscales_missing": (1, r"multiscales", 0),
}


def main() -> int:
    shared = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(XDG_CACHE_HOME=scratch, XDG_STATE_HOME=scratch)
        subprocess.run([*ROISERVICE, "warm-up"], check=True)
        failures = [*check_truth(shared, Path(scratch)), *check_damaged(shared, Path(scratch))]
    for failure in failures:
        print("FAILED", failure)
    print(f"corpus: {len(failures)} failures")
    return 1 if failures else 0


def export(image: Path, layer: str | None, output: Path) -> tuple[int, str, float, float]:
    """Exit code, standard error, seconds of processor time and peak megabytes of `roiservice export`."""
    command = [*ROISERVICE, "export", str(image), "--format", "geojson", "-o", str(output)]
    errors = output.with_suffix(".stderr")
    with errors.open("wb") as stderr:
        process = subprocess.Popen([*command, *(["--layer", layer] if layer else [])], stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    return process.returncode, errors.read_text(), seconds, usage.ru_maxrss / 1024


def check_truth(shared: Path, scratch: Path) -> Iterator[str]:
    truths = sorted((shared / "data/truth").glob("*.json"))
    planes = 0
    for truth_file in truths:
        truth = json.loads(truth_file.read_text())
        path = truth_file.stem.replace("__", "/")
        image, _, layer = path.partition("/labels/")
        output = scratch / "out.geojson"
        code, message, _, _ = export(shared / "data" / image, layer or ".", output)
        if code:
            yield f"{path}: exit code {code}: {message.strip()}"
            continue
        features = json.loads(output.read_text())["features"]
        for plane, expected in truth["planes"].items():
            chosen = [feature for feature in features if lies_on(feature, plane)]
            planes += 1
            yield from (f"{path} {plane}: {what}" for what in compare(chosen, expected["labels"]))
            yield from (f"{path} {plane}: {what}" for what in validated(shared, chosen, path, plane))
        lost = [f for f in features if not any(lies_on(f, plane) for plane in truth["planes"])]
        if lost:
            yield f"{path}: {len(lost)} features on planes that the layer has not"
    print(f"corpus: {len(truths)} layers, {planes} planes")


def lies_on(feature: dict[str, Any], plane: str) -> bool:
    index = dict(pair.split("=") for pair in plane.split(","))
    properties = feature["properties"]
    return all(properties.get(axis) is None or properties[axis] == int(index[axis]) for axis in "tcz")


def compare(features: list[dict[str, Any]], expected: dict[str, list[int]]) -> Iterator[str]:
    """Area, box, parts and holes of each label; truth is [area, x0, y0, x1, y1, parts, _, holes, _]."""
    truth = {int(label == "True" or label): row for label, row in expected.items()}
    found = {int(feature["properties"]["label"]): feature for feature in features}
    if len(found) != len(features):
        yield f"{len(features)} features for {len(found)} labels"
    if found.keys() != truth.keys():
        yield f"labels differ: {sorted(found.keys() ^ truth.keys())[:5]}"
    for label in found.keys() & truth.keys():
        geometry = found[label]["geometry"]
        single = geometry["type"] == "Polygon"
        parts = [geometry["coordinates"]] if single else geometry["coordinates"]
        xs, ys = zip(*(position for part in parts for ring in part for position in ring), strict=True)
        box = [min(xs), min(ys), max(xs), max(ys)]
        holes = sum(len(part) - 1 for part in parts)
        area = found[label]["properties"]["area"]
        row = truth[label]
        if [area, *box, len(parts), holes] != [*row[:6], row[7]]:
            yield f"label {label}: {[area, *box, len(parts), holes]}, truth {[*row[:6], row[7]]}"


def validated(shared: Path, features: list[dict[str, Any]], path: str, plane: str) -> Iterator[str]:
    """What the independent validator says of these features against the label plane itself."""
    sys.path.insert(0, str(shared / "tools"))
    import validate  # type: ignore[import-not-found]

    labels = validate.load_plane(str(shared / "data" / path), 0, plane)
    report = validate.validate({"type": "FeatureCollection", "features": features}, labels)
    if not report["ok"]:
        yield f"validator: {report['error_counts']}"


def check_damaged(shared: Path, scratch: Path) -> Iterator[str]:
    stores = sorted((shared / "data/malformed").glob("*.zarr"))
    unknown = {store.stem for store in stores} ^ DAMAGED.keys()
    if unknown:
        yield f"damaged stores without an expectation, or the reverse: {sorted(unknown)}"
    start_up = processor_seconds([*ROISERVICE, "warm-up"])
    print(f"corpus: start-up takes {start_up:.1f} s")
    for store in stores:
        if store.stem in DAMAGED:
            output = scratch / "damaged.geojson"
            yield from (f"{store.name}: {what}" for what in damage(store, output, start_up))
    print(f"corpus: {len(stores)} damaged stores")


def processor_seconds(command: list[str]) -> float:
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def damage(store: Path, output: Path, start_up: float) -> Iterator[str]:
    code, wording, layers = DAMAGED[store.stem]
    output.unlink(missing_ok=True)
    got, message, seconds, megabytes = export(store, None, output)
    if seconds - start_up > SECONDS:  # another look, with nothing kept: the machine may have been busy
        shutil.rmtree(os.environ["XDG_CACHE_HOME"] + "/roiservice")
        _, _, seconds, _ = export(store, None, output)
    print(f"  {store.name}: {got}, {seconds:.1f} s, {megabytes:.0f} MB: {message.strip()}")
    if got != code:
        yield f"exit code {got}, expected {code}: {message.strip()}"
    if not re.search(wording, message) or "Traceback" in message:
        yield f"the message should say {wording!r}: {message.strip()}"
    if any(not line.startswith("roiservice: ") for line in message.splitlines()):
        yield f"lines that are no message: {message.strip()}"
    if seconds - start_up > SECONDS:
        yield f"took {seconds:.1f} s"
    if megabytes > MEGABYTES:
        yield f"took {megabytes:.0f} MB"
    written = json.loads(output.read_text())["features"] if output.exists() else []
    if len({feature["properties"]["layer"] for feature in written}) < layers:
        yield f"sound layers are missing from {len(written)} features"


if __name__ == "__main__":
    sys.exit(main())
