"""The OpenAPI document: as it is written, as JSON, and as a list of operations to read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

import roiservice

_SERVER = "\n  - url: /\n"  # the document's own server, for a service that is mounted below no prefix


@lru_cache(4)
def openapi_yaml(prefix: str) -> bytes:
    """The document with the prefix as its server."""
    text = _file().read_text(encoding="utf-8")
    return text.replace(_SERVER, f"\n  - url: {prefix or '/'}\n", 1).encode()


@lru_cache(4)
def openapi_json(prefix: str) -> bytes:
    """The same as JSON."""
    return orjson.dumps(_document(prefix))


@lru_cache(1)
def operations() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The document's `info`, and its tags in order, each with its `operations` in the document's order.

    Parameters and responses are resolved; `examples` are those of the answer with status 200, as text.
    """
    document = _document("")
    groups = {tag["name"]: {**tag, "operations": []} for tag in document["tags"]}
    for path, method, item in _by_method(document):
        operation = item[method]
        parameters = [*item.get("parameters", ()), *operation.get("parameters", ()), *_members(operation)]
        responses = {status: _resolve(document, each) for status, each in operation["responses"].items()}
        shown = {
            **operation,
            "path": path,
            "method": method.upper(),
            "parameters": [_with_schema(document, _resolve(document, each)) for each in parameters],
            "responses": list(responses.items()),
            "examples": _examples(document, responses.get("200", {})),
        }
        groups[operation["tags"][0]]["operations"].append(shown)
    return document["info"], list(groups.values())


def _by_method(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in ("get", "post"):
            if method in item:
                yield path, method, item


def _members(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The members of a request's body, as if they were parameters."""
    for media in operation.get("requestBody", {}).get("content", {}).values():
        for name, schema in media["schema"]["properties"].items():
            about = {key: schema[key] for key in ("description", "example") if key in schema}
            yield {"name": name, "in": "body", "schema": schema, **about}


def _with_schema(document: dict[str, Any], parameter: dict[str, Any]) -> dict[str, Any]:
    return {**parameter, "schema": _resolve(document, parameter["schema"])}


def _examples(document: dict[str, Any], response: dict[str, Any]) -> list[str]:
    """Examples of an answer's bodies, or of their schemas."""
    found = []
    for media in response.get("content", {}).values():
        example = media.get("example") or _resolve(document, media["schema"]).get("example")
        if example is not None:
            found.append(orjson.dumps(example, option=orjson.OPT_INDENT_2).decode())
    return found


def _resolve(document: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """What an item that may be a reference stands for."""
    while "$ref" in item:
        found: Any = document
        for part in item["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        item = found
    return item


def _document(prefix: str) -> dict[str, Any]:
    import yaml  # takes a while

    document: dict[str, Any] = yaml.safe_load(openapi_yaml(prefix))
    return document


def _file() -> Path:
    """Installed packages hold the document; in a checkout it lies beside the package."""
    package = Path(roiservice.__file__).parent
    inside = package / "openapi.yaml"
    return inside if inside.exists() else package.parent / "openapi.yaml"
