"""The page at `/`: one file, no build step, read once when the server starts."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Request, Response

router = APIRouter()

_FILE = Path(__file__).with_name("static") / "index.html"
# Universal newlines: browsers hash what their parser saw, and it turns CRLF into LF.
HTML = _FILE.read_text(encoding="utf-8")


def content_security_policy(html: str) -> str:
    """A policy under which only the page's own inline scripts and styles run, known by their hashes.

    Nothing is loaded from anywhere; the page may talk to its own server alone. Raises ValueError where the
    page has no script or no style: their hashes would be missing without a word.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(html, 'script')}",
            f"style-src {_hashes(html, 'style')}",
            "img-src blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hashes(html: str, tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    if not found:
        raise ValueError(f"the page has no <{tag}>")
    digests = (hashlib.sha256(text.encode()).digest() for text in found)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


_BODY = HTML.encode()
_ETAG = f'"{hashlib.sha256(_BODY).hexdigest()[:32]}"'
_HEADERS = {
    "ETag": _ETAG,
    "Cache-Control": "no-cache",
    "Content-Security-Policy": content_security_policy(HTML),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


# Not in the OpenAPI: it is for people, and not one of the service's operations.
@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    """The page, or 304 where the browser has it already."""
    if _has_it(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=_HEADERS)
    return Response(_BODY, media_type="text/html", headers=_HEADERS)


def _has_it(if_none_match: str) -> bool:
    """Weak comparison (RFC 9110, 13.1.2): a proxy that compresses turns our tag into a weak one."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (_ETAG, "*") for tag in tags)
