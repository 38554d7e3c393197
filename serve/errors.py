"""The error that becomes an answer."""

from collections.abc import Mapping


class ApiError(Exception):
    """A request that gets no prediction. code: stable, for programs. message: for people."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers
