"""What commands say: messages on standard error, progress bars where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from roiservice.errors import SettingsError
from roiservice.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress

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
    if not _is_shown():
        yield lambda *_: None
        return
    with _bar() as bar:
        task = bar.add_task(title, total=pixels, features=0, speed="")

        def advance(more: int, features: int) -> None:
            bar.update(task, advance=more, features=features)
            speed = bar.tasks[task].speed
            if speed is not None:
                bar.update(task, speed=f"{speed / 1e6:,.0f} Mpx/s")

        yield advance


class Overall:
    """A bar over many images whose layers are built side by side."""

    def __init__(self, bar: Progress, images: int, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task("images", total=images, completed=done, features=0, speed="")
        self._began = time.monotonic()
        self._pixels = self._features = 0

    def image_done(self) -> None:
        """One more is done."""
        self._bar.update(self._task, advance=1)

    def layer_done(self, pixels: int, features: int) -> None:
        """One more layer is."""
        self._pixels += pixels
        self._features += features
        speed = self._pixels / (time.monotonic() - self._began) / 1e6
        self._bar.update(self._task, features=self._features, speed=f"{speed:,.0f} Mpx/s")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Not shown, while other things are."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


@contextmanager
def overall_progress(images: int, done: int) -> Iterator[Overall]:
    """A bar over so many images; it shows nothing where standard error is no terminal."""
    with _bar() as bar:
        yield Overall(bar, images, done)


def _is_shown() -> bool:
    """Whether standard error is a terminal; it may as well be closed."""
    return sys.stderr is not None and sys.stderr.isatty()


def _bar() -> Progress:
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
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show `text` while something is done, where standard error is a terminal."""
    if not _is_shown():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
