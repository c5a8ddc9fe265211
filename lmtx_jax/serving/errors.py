"""What a request is refused with: a status and one line, always as JSON."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from lmtx_jax.data.reading import well_formed


class Refused(Exception):
  """A request that gets an error."""

  def __init__(
    self, status: int, message: str, headers: dict[str, str] | None = None
  ):
    """Takes the HTTP status, one line for people, and headers of the answer."""
    super().__init__(message)
    self.status = status
    self.message = message
    self.headers = headers


def error_response(
  status: int, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
  """`{"error": {"status", "message"}}`."""
  error = {'status': status, 'message': well_formed(message)}
  return JSONResponse({'error': error}, status, headers)
