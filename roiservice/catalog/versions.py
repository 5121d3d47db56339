"""What names the version of a catalog, and where it lies: beside its place until it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from roiservice.catalog.equality import SOURCE, differ_in_source_alone, equal_catalogs
from roiservice.catalog.indexes import renumber_catalog
from roiservice.records import dataclass
from roiservice.sources.tokens import ChunkState
from roiservice.vectorize.outlines import Outline


@dataclass(frozen=True)
class LayerVersion:
    """What names a catalog: numbers of layer and version, state of the source, outline options.

    `chunks` tell the state of a label image in more detail, from before it was opened, so that what changes
    from then on counts as changed; None where that cannot be told.
    """

    layer_number: int
    number: int
    token: str
    outline: Outline
    chunks: ChunkState | None = None


def blocks_folder(directory: Path) -> Path:
    """Where the blocks of a catalog are kept until it is whole."""
    return directory.with_name(f"{directory.name}.blocks")


def put_in_place(built: Path, directory: Path, renewed: Callable[[], int], *, is_known: bool) -> Path:
    """Give a catalog that was built beside `directory` that place, or another; where it is now.

    One of the same version may be there, if the build was forced: one that tells the same changes nothing,
    but another, from a source that changed and looks the same, is a version of its own, with the number that
    `renewed` gives. So is what cannot be compared, unless what it is made from `is_known`.
    """
    if is_known and not directory.exists():
        os.rename(built, directory)
    elif directory.exists() and equal_catalogs(built, directory):
        shutil.rmtree(built)
    else:
        number = renewed()
        renumber_catalog(built, number)
        directory = directory.with_name(str(number))
        os.rename(built, directory)
    return directory


def is_kept(before: Path, built: Path, *, is_same: bool) -> bool:
    """Whether a catalog stays in service, as the one `built` after it tells the same.

    Its source only looks like another one, as where files are copied: how it looks is taken over, and `built`
    goes. Who walks through the catalog, or keeps ids, notices nothing. `is_same`: the features are known to
    be the same.
    """
    if not differ_in_source_alone(built, before, is_same=is_same):
        return False
    renumber_catalog(built, int(before.name))
    for name in SOURCE:  # what the state of the source is told by comes last
        if (built / name).exists():
            os.replace(built / name, before / name)
        else:
            (before / name).unlink(missing_ok=True)
    shutil.rmtree(built)
    return True
