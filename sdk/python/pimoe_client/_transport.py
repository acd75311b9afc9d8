"""How requests get to the server and what becomes of its errors. The operations are generated, see _operations."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx2 as httpx

_BUSY = (429, 503)  # nothing has been done: the same request may be sent again
_LONGEST_WAIT = 60.0  # seconds that an answer can make a retry wait


class ApiError(Exception):
    """An answer that is an error. code is stable; message is for people."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        inner = body.get("error") if isinstance(body, dict) else None
        fields = inner if isinstance(inner, dict) else body if isinstance(body, dict) else {}
        self.status = status
        self.code: str = fields.get("code") or ""
        self.message: str = fields.get("message") or fields.get("detail") or "no text"
        self.param: str | None = fields.get("param")
        self.fields: list[dict[str, str]] = fields.get("errors") or []
        self.request_id: str = headers.get("x-request-id", "")
        self.retry_after: float | None = _seconds(headers.get("retry-after"))
        super().__init__(f"{status} {self.code}: {self.message} (request {self.request_id})")


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None


class Transport:
    """A connection pool to one server. Use it as a context manager, or close it."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 600.0,
        retries: int = 2,
        http: httpx.Client | None = None,
    ) -> None:
        """url is the server's, without a path; timeout is for connecting and between two pieces of an answer, in seconds."""
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._retries = retries
        self._http = http or httpx.Client(timeout=timeout)

    def close(self) -> None:
        self._http.close()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(
        self,
        method: str,
        path: str,
        parts: Mapping[str, str],
        query: Mapping[str, Any],
        headers: Mapping[str, Any],
        body: Any,
        accept: str,
    ) -> httpx.Response:
        """Sends a request until an answer comes that is no reason to wait; the answer's body is still to be read."""
        for name, value in parts.items():
            path = path.replace("{" + name + "}", quote(str(value), safe=""))
        sent = {**self._headers, "Accept": accept}
        sent.update({k: str(v) for k, v in headers.items() if v is not None})
        content: bytes | None = None
        if isinstance(body, (bytes, bytearray, memoryview)):
            content, sent["Content-Type"] = bytes(body), "application/octet-stream"
        elif body is not None:
            content, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        sent.setdefault("X-Request-Id", uuid.uuid4().hex)
        asked = {k: v for k, v in query.items() if v is not None}
        for attempt in range(self._retries + 1):
            request = self._http.build_request(method, self._url + path, params=asked, headers=sent, content=content)
            answer = self._http.send(request, stream=True)
            if answer.status_code < 400:
                return answer
            error = _error(answer)
            if answer.status_code not in _BUSY or attempt == self._retries:
                raise error
            time.sleep(min(error.retry_after if error.retry_after is not None else 1.0, _LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _json(self, *request: Any) -> Any:
        return json.loads(self._whole(*request, "application/json"))

    def _bytes(self, *request: Any) -> bytes:
        return self._whole(*request, "application/octet-stream")

    def _text(self, *request: Any) -> str:
        return self._whole(*request).decode()

    def _whole(self, *request: Any) -> bytes:
        answer = self._send(*request)
        try:
            return answer.read()
        finally:
            answer.close()

    def _events(self, *request: Any) -> Iterator[Any]:
        """The data of server-sent events, as JSON, until [DONE]. An event that is an error is raised."""
        answer = self._send(*request, "text/event-stream")
        try:
            for line in answer.iter_lines():
                if not line.startswith("data:"):
                    continue  # comments keep the connection alive
                data = line[len("data:") :].strip()
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if isinstance(event, dict) and isinstance(event.get("error"), dict):
                    raise ApiError(int(event["error"].get("status") or 500), event, answer.headers)
                yield event
        finally:
            answer.close()


def _error(answer: httpx.Response) -> ApiError:
    try:
        text = answer.read()
    finally:
        answer.close()
    try:
        body = json.loads(text)
    except ValueError:
        body = {"message": text[:200].decode("utf-8", "replace")}
    return ApiError(answer.status_code, body, answer.headers)
