"""The error that becomes an answer."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(eq=False)
class ApiError(Exception):
    """A request that gets no prediction. code: stable, for programs. message: for people."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] | None = None
