"""Objects in S3 buckets, Amazon's or any other server's; signed where there are credentials.

Requests are plain HTTP of `transport`, so that all its bounds hold. botocore, if installed, finds credentials
where AWS tools keep them and signs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.paths import clean_path
from roiservice.sources.remote.listings import Page, read_page
from roiservice.sources.remote.objects import Forbidden, HttpObjects, Listing
from roiservice.sources.remote.transport import Reply
from roiservice.sources.remote.urls import bucket_and_key, encoded

_PAGE_BYTES = (
    2**24
)  # of one listing: 1000 keys of 1024 bytes each, percent-encoded, with what is said of them
_PAGE_KEYS = 1000
_SPARE_PAGES = 20  # of one listing: some may be empty, where what they would hold was deleted
_LEAST_FILLED = 10  # servers may give a tenth of the keys that are asked for
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_REGION = re.compile(r"[a-z0-9-]{1,32}")
_DNS_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_AMAZON = re.compile(r"s3([.-][a-z0-9-]+)?\.amazonaws\.com")
_YES = ("1", "true", "yes", "on")

Signer = Callable[[str, str], Mapping[str, str]]
"""(method, URL) -> headers that make up a signature."""


@dataclass(frozen=True)
class Account:
    """How S3 is reached: `endpoint` "" is Amazon's; `sign` None sends requests without a signature."""

    endpoint: str
    region: str
    sign: Signer | None


class S3Objects(HttpObjects):
    """Objects below `s3://bucket/key`, which can be listed if the bucket allows it."""

    _follow = False  # a signature is for one host, and buckets elsewhere say where they are

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._account = _account(location)
        bucket, self._prefix = bucket_and_key(location)
        self._base = _bucket_url(self._account, bucket)

    def listing(self, key: str, most: int, *, deep: bool = False) -> Listing | None:
        """As the base class; None where the bucket does not let itself be listed.

        Raises SourceDamaged where the server goes on with pages that hold next to nothing, or again the same.
        """
        prefix = "/".join(part for part in (self._prefix, key) if part)
        query = {"list-type": "2", "prefix": f"{prefix}/" if prefix else "", "encoding-type": "url"}
        if not deep:
            query["delimiter"] = "/"
        found, tokens = Page(), set[str]()
        for _ in range(_SPARE_PAGES + most * _LEAST_FILLED // _PAGE_KEYS):
            page = self._page(key, {**query, "max-keys": str(min(_PAGE_KEYS, most - len(found)))})
            if page is None:
                return None
            found = found.joined(page)
            if page.token is None or len(found) >= most:
                return _below(query["prefix"], found, complete=page.token is None)
            if page.token in tokens:
                raise SourceDamaged(self.location, key, "the server repeats itself in its listing")
            tokens.add(page.token)
            query["continuation-token"] = page.token
        reason = f"the server does not end its listing: {len(tokens)} pages hold {len(found)} entries"
        raise SourceDamaged(self.location, key, reason)

    def _page(self, key: str, query: Mapping[str, str]) -> Page | None:
        asked = urlencode(sorted(query.items()), safe="-._~", quote_via=quote)  # spaces are signed as %20
        reply = self._send("GET", key, _PAGE_BYTES, {}, wanted=(200,), query=asked)
        if reply.status != 200:
            error = self._refusal(key, reply)
            if isinstance(error, Forbidden):
                return None
            raise error
        try:
            return read_page(reply.data)
        except ValueError as error:
            raise SourceDamaged(self.location, key, f"the server sends no usable listing: {error}") from None

    def _url(self, key: str) -> str:
        path = "/".join(part for part in (self._prefix, key) if part)
        return f"{self._base}/{encoded(path)}"

    def _send(self, *arguments: Any, **options: Any) -> Reply:
        reply = super()._send(*arguments, **options)
        if reply.status == 404 and _code(reply) == "NoSuchBucket":
            raise SourceDamaged(self.location, "", "there is no such bucket")
        return reply

    def _signed(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        # Not signed, since proxies may change it.
        plain = {"Accept-Encoding": "identity", **headers}
        if self._account.sign is None:
            return plain
        try:
            return {**plain, **self._account.sign(method, url)}
        except Exception as error:  # credentials may have to be fetched or renewed first, in many ways
            reason = f"no request can be signed: {type(error).__name__}"
            raise SourceDamaged(self.location, "", reason) from error

    def _refusal(self, key: str, reply: Reply) -> SourceError:
        code = _code(reply)
        region = reply.headers.get("x-amz-bucket-region", "")
        if reply.status in (301, 307, 400) and _REGION.fullmatch(region) and region != self._account.region:
            reason = f"the bucket is in region {region}; set AWS_REGION to it"
            return SourceRefused(self.location, "", reason)
        if reply.status == 403 and code in ("", "AccessDenied", "AllAccessDisabled"):
            how = "with a signature" if self._account.sign else "without a signature"
            return Forbidden(self.location, key, f"the server answers {reply.phrase} to requests {how}")
        if code:
            return SourceDamaged(self.location, key, f"the server answers {reply.phrase} ({code})")
        return super()._refusal(key, reply)


def _code(reply: Reply) -> str:
    """The code in an error's XML; "" where there is none, as in answers to HEAD."""
    match = _CODE.search(reply.data)
    return match[1].decode() if match else ""


def _below(prefix: str, page: Page, *, complete: bool) -> Listing:
    """The page with names relative to `prefix`; what is no path below it is left out."""
    folders = (name[len(prefix) :].rstrip("/") for name in page.folders if name.startswith(prefix))
    files = ((name[len(prefix) :], version) for name, version in page.files if name.startswith(prefix))
    return Listing(
        tuple(sorted(name for name in folders if clean_path(name) == name)),
        tuple(sorted((entry for entry in files if clean_path(entry[0]) == entry[0]), key=lambda e: e[0])),
        complete,
    )


def _bucket_url(account: Account, bucket: str) -> str:
    """Amazon wants the bucket in the host's name where it can stand there, other servers in the path."""
    if account.endpoint:
        return f"{account.endpoint}/{bucket}"
    host = f"s3.{account.region}.amazonaws.com"
    return f"https://{bucket}.{host}" if _DNS_BUCKET.fullmatch(bucket) else f"https://{host}/{bucket}"


def is_own_server(host: str) -> bool:
    """Whether `host`, with its port if it has one, is the server that `s3://` locations are read from.

    SourceRefused if the settings of AWS tools cannot be used.
    """
    endpoint = _account("s3://...").endpoint
    if endpoint:
        return urlsplit(endpoint).netloc.lower() == host.lower()
    return _AMAZON.fullmatch(host.lower()) is not None


def _account(location: str) -> Account:
    """From the variables and files that all AWS tools read, as they are now."""
    variables = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    try:
        return _account_of(variables)
    except SourceError as error:
        raise type(error)(location, "", error.reason) from None


@lru_cache(maxsize=8)
def _account_of(variables: tuple[tuple[str, str], ...]) -> Account:
    environment = dict(variables)
    session = _session()
    config = {} if session is None else _config(session)
    endpoint = (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or str(config.get("endpoint_url") or "")
    ).rstrip("/")
    if endpoint and not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", endpoint):
        raise SourceRefused("", "", "AWS_ENDPOINT_URL must be an http(s) URL without a user or query")
    region = (
        environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or str(config.get("region") or "us-east-1")
    )
    if not _REGION.fullmatch(region):
        raise SourceRefused("", "", "AWS_REGION is no region's name")
    if environment.get("AWS_NO_SIGN_REQUEST", "").lower() in _YES:
        return Account(endpoint, region, None)
    if session is None:
        if environment.get("AWS_ACCESS_KEY_ID") or environment.get("AWS_PROFILE"):
            reason = "requests cannot be signed without botocore: pip install 'roiservice[s3]'"
            raise SourceRefused("", "", f"{reason}, or set AWS_NO_SIGN_REQUEST=yes")
        return Account(endpoint, region, None)
    return Account(endpoint, region, _signer(session, region, own_endpoint=bool(endpoint)))


# Credentials that are being renewed hold a lock.
os.register_at_fork(after_in_child=_account_of.cache_clear)


def _session() -> Any:
    """The session of botocore, which knows variables and files; None if it is not installed."""
    try:
        import botocore.session
    except ImportError:
        return None
    return botocore.session.Session()


def _config(session: Any) -> Mapping[str, Any]:
    from botocore.exceptions import BotoCoreError

    try:
        config: Mapping[str, Any] = session.get_scoped_config()
    except BotoCoreError as error:
        raise SourceRefused("", "", f"the AWS configuration cannot be used: {error}") from None
    return config


def _signer(session: Any, region: str, *, own_endpoint: bool) -> Signer | None:
    """None if there are no credentials."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError

    if own_endpoint:  # the role of an Amazon machine means nothing to another server
        session.get_component("credential_provider").remove("iam-role")
    try:
        credentials = session.get_credentials()
    except BotoCoreError as error:
        raise SourceRefused("", "", f"the AWS credentials cannot be used: {error}") from None
    if credentials is None:
        return None

    def sign(method: str, url: str) -> Mapping[str, str]:
        request = AWSRequest(method=method, url=url)
        S3SigV4Auth(credentials.get_frozen_credentials(), "s3", region).add_auth(request)
        return dict(request.headers.items())

    return sign
