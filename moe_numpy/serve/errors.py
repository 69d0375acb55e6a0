"""What is wrong with a request, as OpenAI's interface says it."""

from collections.abc import Mapping
from typing import Any

BAD, UNAUTHORISED, NOT_FOUND, TIMEOUT, TOO_LARGE, NOT_JSON, FULL, BROKEN, STOPPING = (
    400, 401, 404, 408, 413, 415, 429, 500, 503
)  # fmt: skip
_TYPES = {
    UNAUTHORISED: "authentication_error",
    FULL: "rate_limit_error",
    BROKEN: "server_error",
    STOPPING: "server_error",
}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: for people.
        param: which field is wrong.
        code: for programs, such as ``model_not_found``.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def document(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
