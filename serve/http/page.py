"""The pages for people: `/`, one file read when the server starts, and `/docs`, which needs no internet."""

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles

router = APIRouter()

DOCS_ASSETS = "/docs/assets"

# Read with universal newlines: browsers hash the text after turning CRLF into LF.
HTML = (Path(__file__).with_name("static") / "index.html").read_text(encoding="utf-8")


def content_security_policy(html: str) -> str:
    """A policy that allows only the page's inline scripts and styles, by their hashes, and its own server.

    Raises ValueError where the page has no script or no style.
    """
    return (
        f"default-src 'none'; script-src {_hashes(html, 'script')}; style-src {_hashes(html, 'style')}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
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


# Not in the OpenAPI: it is for people, not an operation of the service.
@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page, or 304 where the browser has it already."""
    if _matches_etag(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=_HEADERS)
    return Response(_BODY, media_type="text/html", headers=_HEADERS)


def _matches_etag(if_none_match: str) -> bool:
    """Weak comparison (RFC 9110, 13.1.2): a proxy that compresses makes the tag a weak one."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (_ETAG, "*") for tag in tags)


def install_docs(app: FastAPI) -> None:
    """Add `/docs`: Swagger UI from the files that the package fastapi-offline carries."""
    assets = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    app.mount(DOCS_ASSETS, assets, name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs(_: Request) -> Response:
        assets = DOCS_ASSETS.removeprefix("/")  # relative to /docs: right below any prefix of a proxy
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} {app.version}",
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
        )
