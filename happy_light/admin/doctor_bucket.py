"""The part of `doctor` that is about an S3 bucket: it stores two small files, and looks at them as clients do."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from happy_light.admin.finding import Finding
from happy_light.config import Bucket

if TYPE_CHECKING:
    import httpx

    from happy_light.blobs.s3_client import S3Client

_TIMEOUT: Final = 10.0  # s
_CONTENT: Final = b"written by happy-server-light doctor"
_WEB_APP: Final = "https://app.happy.engineering"
_SAMPLES: Final = "docs/full.md has the settings of a bucket."


def check(bucket: Bucket) -> Iterator[Finding]:
    """Check that the bucket works as clients use it. Raises BucketError if it cannot be used at all."""
    import httpx

    from happy_light.blobs.s3_client import S3Client

    s3 = S3Client(bucket)
    s3.check()
    name = f"doctor-{secrets.token_hex(8)}"
    private, public = f"sessions/{name}/attachments/{uuid.uuid4()}.enc", f"public/users/{name}/doctor.png"
    try:
        for key in (private, public):
            s3.put(key, _CONTENT, "application/octet-stream", "no-store")
        yield Finding("bucket", "ok", f"The bucket {bucket} stores files.")
        with httpx.Client(timeout=_TIMEOUT) as http:
            yield _privacy(http, bucket, private)
            yield _download(http, s3, private)
            yield _public(http, f"{bucket.public_url}/{public}")
            yield _forms(http, s3, private)
            yield _origins(http, f"{bucket.endpoint}/{bucket.name}")
    finally:
        for key in (private, public):
            s3.delete(key)


def _status(http: httpx.Client, url: str) -> int:
    """Request a URL without a signature and return the status; 0 if there is no answer."""
    import httpx

    try:
        return http.get(url).status_code
    except httpx.HTTPError:
        return 0


def _privacy(http: httpx.Client, bucket: Bucket, private: str) -> Finding:
    endpoint = f"{bucket.endpoint}/{bucket.name}"
    for url in (f"{endpoint}/{private}", f"{bucket.public_url}/{private}", f"{endpoint}?list-type=2"):
        if _status(http, url) == 200:
            text = f"Anybody can read {url.partition('/doctor-')[0]} in the bucket without a signature."
            return Finding("bucket privacy", "problem", text, f"Let anonymous users read public/* only; {_SAMPLES}")
    return Finding("bucket privacy", "ok", "Nobody can read encrypted files or list the bucket without a signature.")


def _download(http: httpx.Client, s3: S3Client, private: str) -> Finding:
    if _status(http, s3.presigned_get(private)) == 200:
        return Finding("bucket downloads", "ok", "Encrypted files can be read with a signed URL.")
    text = "A signed URL is refused: the clock, the region or a proxy before the S3 server is wrong."
    return Finding("bucket downloads", "problem", text, f"Compare S3_REGION and the clocks; {_SAMPLES}")


def _public(http: httpx.Client, url: str) -> Finding:
    status = _status(http, url)
    if status == 200:
        return Finding("bucket avatars", "ok", "Public files can be read below S3_PUBLIC_URL.")
    text = f"Public files cannot be read below S3_PUBLIC_URL: {url} is answered with {status or 'nothing'}."
    return Finding("bucket avatars", "problem", text, f"Let anonymous users read public/*; {_SAMPLES}")


def _forms(http: httpx.Client, s3: S3Client, key: str) -> Finding:
    """Upload as clients do, once within the limit of size, and once above it."""
    import httpx

    answered = []
    for size_max in (len(_CONTENT), 1):
        form = s3.presigned_post(key, 0, size_max)
        try:
            answered.append(http.post(form.url, data=form.fields, files={"file": _CONTENT}).status_code)
        except httpx.HTTPError:
            answered.append(0)
    within, above = answered
    if not 200 <= within < 300:
        text = f"The S3 server answers {within or 'nothing'} to a form (POST Object), with which clients upload."
        return Finding("bucket uploads", "problem", text, f"Use an S3 server that supports them; {_SAMPLES}")
    if 200 <= above < 300:
        text = "The S3 server takes larger files than the policy of a form allows."
        return Finding("bucket uploads", "warning", text, f"Use an S3 server that checks policies; {_SAMPLES}")
    return Finding("bucket uploads", "ok", "Files can be uploaded with a form, up to the size that it allows.")


def _origins(http: httpx.Client, url: str) -> Finding:
    """Ask as a browser does before the web app uploads."""
    import httpx

    try:
        answer = http.options(url, headers={"origin": _WEB_APP, "access-control-request-method": "POST"})
        allowed = answer.headers.get("access-control-allow-origin")
    except httpx.HTTPError:
        allowed = None
    if allowed in ("*", _WEB_APP):
        return Finding("bucket origins", "ok", "Web apps may use the bucket.")
    text = f"The bucket lets no web app of {_WEB_APP} upload (CORS); phones and terminals are not concerned."
    return Finding("bucket origins", "warning", text, f"Allow GET and POST from every origin; {_SAMPLES}")
