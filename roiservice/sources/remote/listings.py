"""Pages of S3 listings (ListObjectsV2), read without ever resolving an entity."""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import unquote_plus
from xml.parsers import expat

from roiservice.records import dataclass
from roiservice.sources.remote.objects import Version

_LONGEST_TEXT = 2**14  # of one element: a key of 1024 bytes, each percent-encoded, and to spare
_ENTRIES = ("Contents", "CommonPrefixes")


@dataclass(frozen=True)
class Page:
    """Keys of folders, ending in `/`, and (key, version) of objects; `token` asks for the next page."""

    folders: tuple[str, ...] = ()
    files: tuple[tuple[str, Version], ...] = ()
    token: str | None = None

    def __len__(self) -> int:
        return len(self.folders) + len(self.files)

    def joined(self, other: Page) -> Page:
        """Both, with the token of the other."""
        return Page(self.folders + other.folders, self.files + other.files, other.token)


def read_page(data: bytes) -> Page:
    """The page in an answer to ListObjectsV2. ValueError if it is none, or has a document type."""
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.text
    parser.EndElementHandler = reader.end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    return reader.page()


def _refuse_doctype(*_: object) -> NoReturn:
    raise ValueError("it has a document type")


class _Reader:
    """Gathers the entries of a page while its elements come."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._text = ""
        self._entry: dict[str, str] = {}
        self._top: dict[str, str] = {}
        self._folders: list[str] = []
        self._files: list[tuple[str, Version]] = []

    def start(self, name: str, _attributes: object) -> None:
        self._path.append(name.rpartition(" ")[2])
        self._text = ""
        if len(self._path) == 2:
            self._entry = {}
        if len(self._path) > 8:
            raise ValueError("it is nested too deep")

    def text(self, text: str) -> None:
        self._text += text
        if len(self._text) > _LONGEST_TEXT:
            raise ValueError("it has an element that is too long")

    def end(self, _name: str) -> None:
        name = self._path.pop()
        if len(self._path) == 2 and self._path[1] in _ENTRIES:
            self._entry[name] = self._text
        elif len(self._path) == 1 and name == "CommonPrefixes":
            self._folders.append(self._key("Prefix"))
        elif len(self._path) == 1 and name == "Contents":
            self._files.append((self._key("Key"), self._version()))
        elif len(self._path) == 1:
            self._top[name] = self._text
        elif not self._path and name != "ListBucketResult":
            raise ValueError(f"it is a {name[:40]}")
        self._text = ""

    def page(self) -> Page:
        more = self._top.get("IsTruncated", "").strip() == "true"
        token = self._top.get("NextContinuationToken") if more else None
        if more and not token:
            raise ValueError("it does not say how to go on")
        plain = unquote_plus if self._top.get("EncodingType", "").strip() == "url" else str
        folders = tuple(plain(folder) for folder in self._folders)
        return Page(folders, tuple((plain(key), version) for key, version in self._files), token)

    def _key(self, name: str) -> str:
        if name not in self._entry:
            raise ValueError(f"an entry has no {name}")
        return self._entry[name]

    def _version(self) -> Version:
        size = self._entry.get("Size", "").strip()
        if not size.isdecimal() or len(size) > 18:
            raise ValueError("an entry has no size")
        return Version(int(size), self._entry.get("ETag", "").strip() + self._entry.get("LastModified", ""))
