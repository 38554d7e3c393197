"""The query parameters `top_k` and `threshold`."""

import re

from starlette.datastructures import QueryParams
from starlette.requests import Request

from serve.errors import ApiError

MAX_TOP = 100
_WHOLE = r"[0-9]{1,4}"
_NUMBER = r"-?[0-9]{1,9}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?"


def _openapi(name: str, description: str, schema: dict[str, object]) -> dict[str, object]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


OPENAPI = [
    _openapi(
        "top_k",
        "Add `top`: this many of the most probable classes.",
        {"type": "integer", "minimum": 1, "maximum": MAX_TOP},
    ),
    _openapi(
        "threshold",
        "Add `uncertain: true` where the confidence is below this.",
        {"type": "number", "minimum": 0, "maximum": 1},
    ),
]


def query_of(request: Request) -> tuple[int, float]:
    """`top_k` and `threshold`, each 0 where absent. Raises ApiError (422) naming the one that is wrong."""
    if not request.scope["query_string"]:
        return 0, 0.0
    query = request.query_params
    top_k = _number(query, "top_k", _WHOLE, "a whole number", 1, MAX_TOP)
    return int(top_k), _number(query, "threshold", _NUMBER, "a number", 0, 1)


def _number(query: QueryParams, name: str, pattern: str, kind: str, least: int, most: int) -> float:
    texts = query.getlist(name)
    if not texts:
        return 0.0
    if len(texts) > 1 or not re.fullmatch(pattern, texts[0]) or not least <= float(texts[0]) <= most:
        message = f"`{name}` must be {kind} from {least} to {most}, given once"
        raise ApiError(422, "bad-parameter", message)
    return float(texts[0])
