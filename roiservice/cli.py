"""The command line: what can be said. What is done lies in `roiservice.commands`, imported when asked for.

Exit codes: 0 all done, 1 a store or a part of it failed (the others were done), 2 wrong usage.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from roiservice import __version__
from roiservice.commands.options import (
    Span,
    address_options,
    ids_option,
    locations,
    outline_options,
    root_labels_option,
    span_of,
    table_options,
)
from roiservice.errors import BadParameter, RoiServiceError, SettingsError

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
ROOM = 2**15  # words, 256 KiB: a thousand frames and more


@contextmanager
def _imports() -> Iterator[None]:
    """Nothing that is imported below is garbage: none is looked for meanwhile, nor among it later on.

    To look takes up to a tenth of the time of a command that finds nothing to do.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="roiservice", message="%(prog)s %(version)s")
@click.pass_context
def roiservice(context: click.Context) -> None:
    """Serve the objects of OME-Zarr label images as regions of interest (ROIs).

    A PATH is an OME-Zarr image, a plate, a zip of one (.ozx), a folder that holds any of these, a table of
    shapes, or the http(s):// or s3:// URL of one. With {image_id} in it, it tells by an image's id where
    that image lies. With a file of ids no PATH is needed.
    Every setting can be given as an environment variable ROISERVICE_NAME.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@roiservice.command()
@locations
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@address_options
@outline_options
@table_options
@ids_option
@root_labels_option
def serve(
    locations: Sequence[tuple[int | None, str]],
    tables: Sequence[tuple[int | None, str]],
    host: str,
    port: int,
    public_address: bool,
    workers: int,
    **overrides: Any,
) -> None:
    """Serve the ROIs of all images below each PATH over HTTP.

    ID=PATH gives a single image the id ID. Without one, the number in a name such as 6001240.zarr
    is the id, else a lasting number is given.
    """
    with _imports():
        from roiservice.commands.serve import serve as run

    run(locations, tables, host, port, public_address=public_address, workers=workers, overrides=overrides)


@roiservice.command()
@locations
@click.option("--force", is_flag=True, help="Build even what seems to be up to date.")
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Trace on the dask cluster whose scheduler is at ADDRESS, such as tls://host:8786; "
    "local: on one of this host's processors that lasts as long as the build.",
)
@outline_options
@table_options
@ids_option
@root_labels_option
def build(
    locations: Sequence[tuple[int | None, str]],
    tables: Sequence[tuple[int | None, str]],
    force: bool,
    dask: str | None,
    **overrides: Any,
) -> int:
    """Build the catalogs of all layers now, so that no request has to wait for one."""
    with _imports():
        from roiservice.commands.build import build as run

    return run(locations, tables, force=force, dask=dask, overrides=overrides)


@roiservice.command()
@click.argument("path", metavar="PATH")
@click.option(
    "-f",
    "--format",
    "format_name",
    type=click.Choice(["geojson", "ndjson", "wkt", "qupath", "omero", "parquet"]),
    default="geojson",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--layer",
    metavar="NAME",
    help="One layer: its path below labels/, its collection id, or . for an image that is itself a "
    "label image. Without it: every layer.",
)
@click.option("-z", metavar="Z", callback=span_of, help="Only objects on this z index, or range such as 2-5.")
@click.option("-t", metavar="T", callback=span_of, help="Only objects on this time index, or range.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write, whole or not at all; without it, standard output.",
)
@outline_options
@table_options
@ids_option
def export(
    path: str,
    tables: Sequence[tuple[int | None, str]],
    format_name: str,
    layer: str | None,
    z: Span | None,
    t: Span | None,
    output: Path | None,
    **overrides: Any,
) -> int:
    """Write the ROIs of one image to a file or standard output.

    Of a plate, name the field: PLATE.zarr/A/1/0.
    """
    with _imports():
        from roiservice.commands.export import export as run

    return run(path, tables, format_name, layer=layer, z=z, t=t, output=output, overrides=overrides)


@roiservice.command()
@locations
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@table_options
@ids_option
def images(
    locations: Sequence[tuple[int | None, str]],
    tables: Sequence[tuple[int | None, str]],
    as_json: bool,
    **overrides: Any,
) -> int:
    """List images, their layers and sizes, and what is wrong with them."""
    with _imports():
        from roiservice.commands.images import images as run

    return run(locations, tables, as_json=as_json, overrides=overrides)


@roiservice.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    show_default="8080, or a free one if that is taken",
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--build-only",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the image below DIR and serve nothing.",
)
def demo(port: int | None, build_only: Path | None) -> None:
    """Segment a photograph of coins, write it as OME-Zarr, and serve its ROIs."""
    with _imports():
        from roiservice.commands.demo import demo as run

    run(port, build_only)


@roiservice.group(invoke_without_command=True)
@click.pass_context
def keys(context: click.Context) -> None:
    """List the keys that sign tokens, and which of them does now."""
    if context.invoked_subcommand is None:
        from roiservice.commands.keys import list_keys as run

        run()


@keys.command("list")
def list_keys() -> None:
    """List the keys, oldest first."""
    from roiservice.commands.keys import list_keys as run

    run()


@keys.command("new")
def new_key() -> None:
    """Make a key. It takes over after ten minutes; the older ones go on verifying."""
    from roiservice.commands.keys import new_key as run

    run()


@keys.command()
@click.argument("key_id", metavar="[KID]", required=False)
def retire(key_id: str | None) -> None:
    """Delete the key KID: what it signed is not valid any more.

    Without KID: delete all keys that another took over from so long ago that all they signed has expired.
    """
    from roiservice.commands.keys import retire as run

    run(key_id)


@roiservice.command()
@click.option(
    "--image",
    "images",
    metavar="ID",
    type=click.IntRange(1, 2**63 - 1),
    multiple=True,
    required=True,
    help="Image that the token is for. May be repeated.",
)
@click.option("--ticket", metavar="PATH", help="A link ticket for PATH and all below it, for one image.")
@click.option(
    "--lifetime",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    show_default="300; 900 for a ticket",
    help="How long the token is valid, at most an hour; a ticket at most a day.",
)
def token(images: Sequence[int], ticket: str | None, lifetime: int | None) -> None:
    """Write a token for scripts. Nobody is asked whether its bearer may read the images."""
    from roiservice.commands.token import token as run

    run(images, ticket, lifetime)


@roiservice.command()
@click.option("--jti", metavar="ID", multiple=True, help="The token with this id. May be repeated.")
@click.option("--sid", metavar="ID", multiple=True, help="All tokens made in this session. May be repeated.")
@click.option(
    "--sub", metavar="NAME", multiple=True, help="All tokens of this subject, such as u:4. May be repeated."
)
@click.option(
    "--image",
    "images",
    metavar="ID",
    type=click.IntRange(1, 2**63 - 1),
    multiple=True,
    help="All tokens made until now, for this image alone. May be repeated.",
)
def revoke(jti: Sequence[str], sid: Sequence[str], sub: Sequence[str], images: Sequence[int]) -> None:
    """Take tokens back: every process of the service refuses them within a second."""
    from roiservice.commands.revoke import revoke as run

    run({"jti": jti, "sid": sid, "sub": sub, "img": images})


@roiservice.command("warm-up", hidden=True)
def warm_up() -> None:
    """Compile all that requests and builds need, and keep it (in NUMBA_CACHE_DIR, if that is set)."""
    from roiservice.warm import warm_up as run

    run()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; errors are one line on standard error, never a traceback."""
    # Nothing here multiplies matrices. Threads that numpy would have for that spin for a tenth of a second.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        code = roiservice.main(arguments, prog_name="roiservice", standalone_mode=False) or 0
    except click.UsageError as error:
        hint = f" ({error.ctx.command_path} --help)" if error.ctx is not None else ""
        code = _complain(error.format_message() + hint, WRONG_USAGE)
    except click.ClickException as error:
        code = _complain(error.format_message(), FAILED)
    except (BadParameter, SettingsError) as error:
        code = _complain(str(error), WRONG_USAGE)
    except RoiServiceError as error:
        code = _complain(str(error), FAILED)
    except BrokenPipeError:
        # The reader of standard output went away, as head does; the interpreter must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except OSError as error:
        code = _complain(str(error), FAILED)
    except (KeyboardInterrupt, click.Abort):
        # Where KeyboardInterrupt passed code run by `exec`, as dataclasses are made by, Python would end$
        # itself by a signal, whatever it is told; and threads that read ahead are not waited for.
        os._exit(INTERRUPTED)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done but what the interpreter does at its end
    gc.freeze()  # which would look for garbage in all that was imported, for a third of a second
    sys.exit(code)


# Python keeps the frames of calls in chunks of 16 KiB. Code that calls functions just where one ends has
# another one mapped and unmapped with every call; imports took up to 0.2 s longer, depending on who imports
# what. All that is called below so large a frame is in one chunk with it; its memory is taken when used.
main.__code__ = main.__code__.replace(co_stacksize=ROOM)


def _complain(message: str, code: int) -> int:
    click.echo(f"roiservice: {' '.join(message.split())}", err=True)
    return code
