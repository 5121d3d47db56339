"""What README says is what the code does."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest

from roiservice import cli
from roiservice.encode.formats import FORMATS
from roiservice.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
FOLDERS = {"catalog_dir": "`~/.cache/roiservice`", "state_dir": "`~/.local/state/roiservice`"}


def settings_rows() -> list[str]:
    """The table of settings, line by line, as the settings themselves give it."""
    rows = []
    for setting in fields(Settings):
        default = FOLDERS[setting.name] if setting.default is MISSING else _shown(setting.default)
        rows.append(f"| `{PREFIX}{setting.name.upper()}` | {default} | {setting.metadata['help']} |")
    return rows


def _shown(default: object) -> str:
    if default is None or default == "":
        return "none"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else f"{default}"


def commands() -> Iterator[click.Command]:
    for command in cli.roiservice.commands.values():
        if not command.hidden:
            yield command


def test_every_setting_is_there_with_its_default() -> None:
    table = [line for line in README.splitlines() if line.startswith(f"| `{PREFIX}")]
    assert table == settings_rows()


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: command.name)
def test_every_command_and_option_is_there(command: click.Command) -> None:
    assert f"`roiservice {command.name}" in README
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            longest = max(parameter.opts, key=len)
            assert re.search(rf"`{longest}\b", README), longest


def test_every_option_that_is_there_exists() -> None:
    known = {opt for command in commands() for parameter in command.params for opt in parameter.opts}
    section = README[README.index("## Commands") : README.index("## Ids")]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section)) <= known | {"--help"}


def test_every_format_is_there() -> None:
    table = README[README.index("| format |") : README.index("## Ids")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*FORMATS, "parquet"]
    export = cli.roiservice.commands["export"]
    (choice,) = (p.type for p in export.params if p.name == "format_name")
    assert isinstance(choice, click.Choice)
    assert list(choice.choices) == [*FORMATS, "parquet"]


def test_every_folder_and_file_that_is_linked_exists() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_link_within_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_figures_are_those_of_the_benchmark() -> None:
    def rows(text: str) -> dict[str, list[str]]:
        lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        return {cells[0]: cells for cells in lines}

    benchmark = rows((ROOT / "docs/benchmark.md").read_text("utf-8"))
    quoted = rows(README[README.index("## How fast") : README.index("## Over HTTP")])
    assert quoted.keys() <= benchmark.keys()
    assert len(quoted) > 2
    for name, cells in quoted.items():
        assert set(cells) <= set(benchmark[name]), name


def test_the_version_is_the_same_everywhere() -> None:
    from roiservice import __version__

    openapi = (ROOT / "openapi.yaml").read_text("utf-8")
    assert re.search(r"^  version: (.+)$", openapi, re.MULTILINE)[1] == __version__  # type: ignore[index]


def test_every_ignored_rule_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    ignored = [*lint["ignore"], *(rule for rules in lint["per-file-ignores"].values() for rule in rules)]
    assert [rule for rule in ignored if not re.search(rf'"{rule}",? # \S', text)] == []
