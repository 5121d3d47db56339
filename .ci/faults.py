"""Ask all that the viewer asks while OMERO.web fails in every way that the stub of its read check knows.

Usage: faults.py SHARED, the folder with data/ and tools/. Exit code 1 if an answer is late, or is neither the
whole one nor ours alone that says so; where OMERO.web alone knows the answer, an error will do.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SHARED = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(SHARED / "tools")]

from omero_web_stub import OmeroWebStub  # noqa: E402 (it lies beside the project)

from tests.e2e.support import Home, Running, serving  # noqa: E402
from tests.omeroweb.images import OmeroImage, squares  # noqa: E402
from tests.omeroweb.views import ROUTES, Call  # noqa: E402

USER, IMAGE = "ada", 1  # the stub knows both
OWN = 7  # ROIs of OMERO's
FIRST_ID = 10**15  # of ours
PATIENCE = 0.3  # seconds that the service waits for OMERO.web
LIMIT = 4.0  # seconds for an answer; what hangs does so for half a minute
FAULTS = ("500", "down", "security", "malformed", "truncated", "html200", "redirect", "hang", "drop")
OTHERS = ("slow", "absent")  # every answer is late; there are no lists, as in the stub itself
# What is asked for; {roi} and {shape} are the last of ours, {theirs} is a shape of OMERO's.
LISTS = (
    "/api/v0/m/rois/?image=1&limit=500",
    "/api/v0/m/rois/?image=1&limit=3&offset=20",
    "/api/v0/m/rois/?image=1&limit=5&offset=4",
    "/api/v0/m/images/1/rois/",
    "/iviewer/rois_by_plane/1/0/0/?limit=500&offset=0",
    "/iviewer/rois_by_plane/1/1-2/0/?limit=500&offset=0",
)
WITH_OMERO = {
    *LISTS,
    "/iviewer/plane_shape_counts/1/",
    "/iviewer/roi/{roi}/page_data/",
    "/iviewer/shape/{shape}/page_data/",
    "/iviewer/shape_stats/?ids={theirs},{shape}&z=0&t=0&cs=0",
    "/webgateway/get_rois_json/1",
}
ALONE = {
    "/api/v0/m/rois/{roi}/",
    "/iviewer/roi/{roi}/image_data/",
    "/iviewer/shape/{shape}/image_data/",
    "/iviewer/shape_stats/?ids={shape}&z=0&t=0&cs=0",
    "/webgateway/render_shape_mask/{shape}/",
}
# Nobody but OMERO.web knows the answer.
IMAGE_DATA = "/iviewer/image_data/1/"
STRANGE = (
    "/iviewer/shape/{theirs}/page_data/",
    "/iviewer/shape/{theirs}/image_data/",
    "/iviewer/shape_stats/?ids={theirs}&z=0&t=0&cs=0",
    "/api/v0/m/rois/?image=2",
)


class Always(list[str]):
    """A fault of all requests from now on; the stub takes one per request."""

    def pop(self, index: Any = -1) -> str:
        """The fault, which stays."""
        return self[index]


class Stub(OmeroWebStub):  # type: ignore[misc] # it states no types
    """The stub with OMERO's lists of ROIs.

    Their faults, sessions and rights are those of the stub's page of an image, whose code answers for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.server.handle_error = lambda *_: None  # who does not wait for an answer breaks the connection
        self.omeros = OmeroImage(IMAGE, size=(1, 1, 31, 61, 57))
        self.lists = True  # whether there are such pages at all
        self.asked = threading.local()

    def _handler(stub) -> Any:  # noqa: N805 (as in the stub itself)
        class Handler(OmeroWebStub._handler(stub)):  # type: ignore[misc]
            def do_GET(self) -> None:  # noqa: N802 (a name that the base class looks for)
                url = urlsplit(self.path)
                found = ((view, re.fullmatch(pattern, url.path)) for pattern, view in ROUTES[:-2])
                view, match = next((each for each in found if each[1]), (None, None))
                own = re.fullmatch(r"/api/v0/m/images/[0-9]+/", url.path)
                if view is None or match is None or own or not stub.lists:
                    super().do_GET()
                    return
                stub.requests.append((self.command, self.path, dict(self.headers)))
                time.sleep(stub.latency)
                call = Call({IMAGE: stub.omeros}, parse_qs(url.query), stub.url, 200, 500)
                stub.asked.document = view(call, *match.groups()).body
                self.image(IMAGE, parse_qs(url.query))
                stub.asked.document = None

        return Handler

    def image_json(self, name: str, image_id: int) -> Any:
        """What a page says of an image if no fault is met."""
        document = getattr(self.asked, "document", None)
        return super().image_json(name, image_id) if document is None else document

    @contextmanager
    def failing(self, fault: str) -> Iterator[None]:
        """All that is asked for meets a fault."""
        if fault == "slow":
            self.latency = 2 * LIMIT
        elif fault == "absent":
            self.lists = False
        else:
            self.faults = Always([fault])
        yield
        self.latency, self.lists, self.faults = 0.0, True, []


@dataclass(frozen=True)
class Answer:
    """What came; `document` is the body itself where it is no JSON."""

    status: int
    incomplete: str
    document: Any
    seconds: float


@dataclass
class Check:
    """One service beside one stub."""

    stub: Stub
    service: Running
    policy: str
    names: dict[str, int] = field(default_factory=dict)
    both: dict[str, Any] = field(default_factory=dict)
    alone: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    failed: int = 0

    def learn(self) -> None:
        """What the answers are without faults, with OMERO's ROIs and without."""
        self.stub.omeros.rois = squares(OWN, planes=((0, 0), (1, 0), (None, None)), side=57)
        session = self.stub.login(USER)
        rois = self.whole(LISTS[0], session)["data"]
        self.names = {"roi": rois[-1]["@id"], "shape": rois[-1]["shapes"][-1]["@id"]}
        self.names["theirs"] = rois[0]["shapes"][0]["@id"]
        self.both = {path: self.whole(path, session) for path in WITH_OMERO | ALONE}
        theirs, self.stub.omeros.rois = self.stub.omeros.rois, []
        session = self.stub.login(USER)
        self.alone = {path: self.ask(path, session).document for path in WITH_OMERO}
        self.stub.omeros.rois = theirs

    def whole(self, path: str, session: str) -> Any:
        """The document of an answer to which nothing is missing; on a busy machine OMERO.web may be late."""
        for _ in range(20):
            answer = self.ask(path, session)
            if answer.status < 400 and not answer.incomplete:
                return answer.document
            time.sleep(1)
        raise RuntimeError(f"{path}: {answer}")

    def ask(self, path: str, session: str) -> Answer:
        """What the service answers."""
        started = time.monotonic()
        connection = http.client.HTTPConnection(urlsplit(self.service.base).netloc, timeout=60)
        connection.request("GET", path.format(**self.names), headers={"Cookie": session})
        answer = connection.getresponse()
        body, kind = answer.read(), answer.headers.get("Content-Type", "")
        connection.close()
        document = _json(body) if kind.startswith("application/json") else body
        incomplete = answer.headers.get("X-Roiservice-Incomplete", "")
        return Answer(answer.status, incomplete, document, time.monotonic() - started)

    def under(self, fault: str) -> None:
        """All paths while OMERO.web fails, for one who has seen all before, and for two who have not."""
        warm, cold, stranger = (self.stub.login(USER) for _ in range(3))
        for path in WITH_OMERO:
            self.ask(path, warm)
        self.ask("/images/1", cold)
        paths = sorted(WITH_OMERO | ALONE | {IMAGE_DATA})
        asked = [("cold", cold, path) for path in paths] + [("warm", warm, path) for path in paths]
        # Where rights count, more questions about these would have OMERO.web left alone for a while.
        asked += [
            ("stranger", stranger, path) for path in (STRANGE if self.policy == "public" else LISTS[:1])
        ]
        with self.stub.failing(fault):
            for state, session, path in asked:
                answer = self.ask(path, session)
                wrong = self.judged(path, answer, state)
                self.asked, self.failed = self.asked + 1, self.failed + bool(wrong)
                if wrong:
                    print(f"FAILED {self.policy}, {fault}, {state}: {path}: {wrong}: {answer}"[:600])

    def judged(self, path: str, answer: Answer, state: str) -> str:
        """What is wrong with an answer."""
        if answer.seconds > LIMIT:
            return "it is late"
        nobody_knows = path == IMAGE_DATA or state == "stranger"
        if nobody_knows and (answer.status >= 300 or isinstance(answer.document, bytes)):
            return ""
        if path in ALONE:
            whole = answer.document == self.both[path] and not answer.incomplete
            return "" if whole else "it is not as without faults"
        if state == "cold" and not answer.incomplete:
            return "it was not meant to know of OMERO's"
        return self.honest(path, answer)

    def honest(self, path: str, answer: Answer) -> str:
        """Why an answer is neither whole nor says that it is not."""
        if answer.status != 200:
            return "it is an error where ours alone would do"
        if not answer.incomplete:
            return "" if answer.document == self.both[path] else "it does not say that something is missing"
        if not answer.incomplete.startswith("OMERO ("):
            return "it does not say what is missing"
        known = [self.alone[path]]
        if path in LISTS:
            whole = self.both[path]
            known.append(whole | {"data": [roi for roi in whole["data"] if roi["@id"] >= FIRST_ID]})
        elif path.startswith("/iviewer/shape_stats/"):
            known.append({str(self.names["shape"]): self.both[path][str(self.names["shape"])]})
        return "" if answer.document in known else "it is not ours alone"


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


def main() -> int:
    started = time.monotonic()
    asked = failed = 0
    for policy in ("public", "omero"):
        settings = {"ROISERVICE_AUTH": policy, "ROISERVICE_OMERO_WEB_TIMEOUT": str(PATIENCE)}
        settings["ROISERVICE_OMERO_WEB_PATIENCE"] = str(PATIENCE)
        with Stub() as stub, tempfile.TemporaryDirectory() as folder:
            home = Home(Path(folder), {**settings, "ROISERVICE_OMERO_WEB_URL": stub.url})
            location = f"{IMAGE}={SHARED / 'data/v04_zyx_stardist3d_u16.zarr'}"
            with serving(home, location, "--workers", 1) as service:
                check = Check(stub, service, policy)
                check.learn()
                for fault in FAULTS + OTHERS:
                    check.under(fault)
        asked, failed = asked + check.asked, failed + check.failed
    print(f"faults: {asked} answers, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
