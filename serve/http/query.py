"""The query parameters `top_k` and `threshold`."""

import re
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from starlette.requests import Request

from serve.errors import ApiError

MAX_TOP = 100
_WHOLE = re.compile(r"[0-9]{1,4}")
_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")

OPENAPI = [
    {
        "name": "top_k",
        "in": "query",
        "required": False,
        "description": "Add `top`: this many of the most probable classes.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TOP},
    },
    {
        "name": "threshold",
        "in": "query",
        "required": False,
        "description": "Add `uncertain: true` where the confidence is below this.",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
    },
]


@dataclass(frozen=True, slots=True)
class PredictQuery:
    """top_k: how many classes to list. threshold: a lower confidence is marked uncertain. 0 where absent."""

    top_k: int = 0
    threshold: float = 0.0


DEFAULT = PredictQuery()


def query_of(request: Request) -> PredictQuery:
    """Raises ApiError (422) naming the parameter that is wrong."""
    if not request.scope["query_string"]:
        return DEFAULT
    query = request.query_params
    top_k = _number(query, "top_k", _WHOLE, f"a whole number from 1 to {MAX_TOP}")
    threshold = _number(query, "threshold", _NUMBER, "a number from 0 to 1")
    if top_k is not None and not 1 <= top_k <= MAX_TOP:
        raise _bad("top_k", f"a whole number from 1 to {MAX_TOP}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise _bad("threshold", "a number from 0 to 1")
    return PredictQuery(int(top_k or 0), threshold or 0.0)


def _number(query: QueryParams, name: str, form: re.Pattern[str], what: str) -> float | None:
    texts = query.getlist(name)
    if not texts:
        return None
    if len(texts) > 1 or form.fullmatch(texts[0]) is None:
        raise _bad(name, what)
    return float(texts[0])


def _bad(name: str, what: str) -> ApiError:
    return ApiError(422, "bad-parameter", f"`{name}` must be {what}, given once")
