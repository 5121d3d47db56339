"""Images and ROIs of a stand-in for OMERO.web, as OMERO.web and OMERO.iviewer put them into JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06#"
PERMISSIONS = ("canAnnotate", "canDelete", "canEdit", "canLink")
Plane = tuple[int | None, int | None]  # z and t; None is every one
Json = dict[str, Any]


@dataclass
class OmeroImage:
    """An image of OMERO's: its ROIs are those that OMERO holds; sizes are t, c, z, y, x.

    `readers` are the users that may read it; None is every user.
    """

    id: int
    rois: list[Json] = field(default_factory=list)
    size: tuple[int, int, int, int, int] = (1, 1, 1, 256, 256)
    readers: frozenset[str] | None = None


def squares(
    count: int, first: int = 1, planes: Sequence[Plane] = ((0, 0),), *, shapes: int = 1, side: int = 256
) -> list[Json]:
    """`count` ROIs with ids from `first`, each with `shapes` squares; the planes are taken in turn.

    The squares lie in a square of `side` pixels, one over another where there is no room.
    """
    rois = []
    room = max(side - 8, 1)
    for number in range(count):
        drawn = []
        for extra in range(shapes):
            z, t = planes[(number + extra) % len(planes)]
            x, y = 10 * (number + extra) % room, 10 * (10 * (number + extra) // room) % room
            drawn.append(_square(first * 10 + number * shapes + extra, x, y, z, t))
        rois.append({"@id": first + number, "@type": f"{SCHEMA}ROI", "omero:details": _details("ROI")})
        rois[-1]["shapes"] = drawn
    return rois


def _square(identifier: int, x: int, y: int, z: int | None, t: int | None) -> Json:
    corners = ((x, y), (x + 7, y), (x + 7, y + 7), (x, y + 7))
    shape = {
        "@id": identifier,
        "@type": f"{SCHEMA}Polygon",
        "Points": " ".join(f"{a},{b}" for a, b in corners),
        "StrokeColor": -65281,
        "StrokeWidth": {"@type": "TBD#LengthI", "Unit": "PIXEL", "Symbol": "pixel", "Value": 1.0},
        "Text": f"OMERO's {identifier}",
        "omero:details": _details("Shape"),
    }
    return shape | {key: at for key, at in (("TheZ", z), ("TheT", t)) if at is not None}


def _details(kind: str) -> Json:
    return {
        "@type": "TBD#Details",
        "owner": {"@type": f"{SCHEMA}Experimenter", "@id": 4, "UserName": "ada", "FirstName": "Ada"},
        "group": {"@type": f"{SCHEMA}ExperimenterGroup", "@id": 3, "Name": "lab"},
        "permissions": _permissions() if kind == "Shape" else {"@type": "TBD#Permissions", "perm": "rwra--"},
    }


def _permissions() -> Json:
    own: Json = dict.fromkeys(PERMISSIONS, True)
    return own | {"@type": "TBD#Permissions", "perm": "rwra--", "isUserRead": True, "isGroupRead": True}


def image_document(image: OmeroImage, base: str) -> Json:
    """What the JSON API says of an image; `base` is the address of the API."""
    t, c, z, y, x = image.size
    pixels = {"@id": image.id, "SizeX": x, "SizeY": y, "SizeZ": z, "SizeC": c, "SizeT": t}
    details = _details("Shape") | {"group": {"@id": 3, "Name": "lab"}}
    own = f"{base}/m/images/{image.id}/"
    return {
        "@type": f"{SCHEMA}Image",
        "@id": image.id,
        "Name": f"image-{image.id}.tif",
        "Pixels": {"@type": f"{SCHEMA}Pixels", **pixels},
        "omero:details": details,
        "url:image": own,
        "url:rois": f"{own}rois/",
    }


def viewer_document(image: OmeroImage) -> Json:
    """What OMERO.iviewer's `image_data` says of an image."""
    t, c, z, y, x = image.size
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channel = {"color": "FFFFFF", "active": True, "inverted": False, "family": "linear", "coefficient": 1.0}
    return {
        "id": image.id,
        "meta": {"imageName": f"image-{image.id}.tif", "imageId": image.id, "pixelsType": "uint8"},
        "perms": dict.fromkeys(PERMISSIONS, True),
        "tiles": False,
        "interpolate": True,
        "size": {"width": x, "height": y, "z": z, "t": t, "c": c},
        "pixel_size": {"x": 0.5, "y": 0.5, "z": 1.0, "unit_x": 0.5, "symbol_x": "µm"},
        "pixel_range": [0, 255],
        "channels": [{"label": str(each), "window": window, **channel} for each in range(c)],
        "rdefs": {"model": "greyscale", "projection": "normal", "defaultZ": 0, "defaultT": 0},
        "families": ["linear", "polynomial", "exponential", "logarithmic"],
        "roi_count": len(image.rois),
    }


def on_planes(rois: Iterable[Json], z: Sequence[int], t: Sequence[int]) -> list[Json]:
    """ROIs with any shape on these planes (the first and last; none: all), as OMERO.iviewer chooses."""
    return [
        roi
        for roi in rois
        if any(_within(shape.get("TheZ"), z) and _within(shape.get("TheT"), t) for shape in roi["shapes"])
    ]


def _within(at: int | None, wanted: Sequence[int]) -> bool:
    return at is None or not wanted or wanted[0] <= at <= wanted[-1]


def shape_counts(image: OmeroImage) -> list[list[int]]:
    """Shapes on each plane, a list over t for each z."""
    return [
        [
            sum(
                _within(shape.get("TheZ"), (z,)) and _within(shape.get("TheT"), (t,))
                for roi in image.rois
                for shape in roi["shapes"]
            )
            for t in range(image.size[0])
        ]
        for z in range(image.size[2])
    ]


def page_data(image: OmeroImage, roi: Json, shape: Json | None) -> Json:
    """Where a ROI is among all of its image, or a shape's ROI among those on the shape's own plane."""
    planes = [() if shape is None or shape.get(key) is None else (shape[key],) for key in ("TheZ", "TheT")]
    listed = [each["@id"] for each in on_planes(image.rois, planes[0], planes[1])]
    place = {"roi_index": listed.index(roi["@id"]), "roi_count": len(listed)}
    own = {} if shape is None else {"theZ": shape.get("TheZ"), "theT": shape.get("TheT")}
    return {"image": {"id": image.id}, "roi": {"id": roi["@id"]}, **place, **own}


def webgateway_shapes(roi: Json) -> Json:
    """A ROI as `webgateway/get_rois_json` gives it."""
    drawn = [
        {
            "id": shape["@id"],
            "type": "Polygon",
            "theZ": shape.get("TheZ"),
            "theT": shape.get("TheT"),
            "points": "M " + " L ".join(shape["Points"].replace(",", " ").split(" ")) + " z",
        }
        for shape in roi["shapes"]
    ]
    return {"id": roi["@id"], "shapes": drawn}
