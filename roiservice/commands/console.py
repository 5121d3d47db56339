"""What commands say: messages on standard error, progress bars where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from roiservice.errors import SettingsError
from roiservice.settings import Settings

Advance = Callable[[int, int], None]  # pixels since the last call, features so far


def check_given(locations: Sequence[object], settings: Settings, *, by_omero: bool = False) -> None:
    """SettingsError unless something names images: a PATH, a file of ids or, where that counts, OMERO."""
    named_by_omero = by_omero and settings.omero_web_url is not None and bool(settings.roots)
    if not locations and settings.ids is None and not named_by_omero:
        raise SettingsError("Missing argument 'PATH': name at least one, or a file of ids by --ids")


def complain(error: object) -> None:
    """One line on standard error."""
    click.echo(f"roiservice: {' '.join(str(error).split())}", err=True)


@contextmanager
def progress(title: str, pixels: int) -> Iterator[Advance]:
    """A bar over `pixels`; it shows nothing where standard error is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[features]:,} features"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=pixels, features=0, speed="")

        def advance(more: int, features: int) -> None:
            bar.update(task, advance=more, features=features)
            speed = bar.tasks[task].speed
            if speed is not None:
                bar.update(task, speed=f"{speed / 1e6:,.0f} Mpx/s")

        yield advance


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show `text` while something is done, where standard error is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield
