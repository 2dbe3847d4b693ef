"""Google Cloud Storage on the loopback: `python -m tests.storage.emulator LOG`.

gcp-storage-emulator, and in front of it what its clients here rely on and it leaves out:
generations (TensorStore writes on condition that nobody else has meanwhile), the answer to a range
behind an object's end, renaming, and buckets that one may not use. Prints its port; ends with its
input.
"""

import sys
from collections.abc import Callable
from email.message import Message
from email.parser import BytesParser
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.handlers.buckets import create_bucket

BUCKET = "bucket"
REFUSED = {
    "forbidden": (HTTPStatus.FORBIDDEN, "me@example.com does not have storage.objects.list access"),
    "anonymous": (HTTPStatus.UNAUTHORIZED, "Anonymous caller does not have access"),
}


def as_google(handler: Callable) -> Callable:
    """A handler of the emulator that also does what the real service does."""

    def handle(request: Any, response: Any, storage: Any) -> None:
        bucket = request.params.get("bucket_name")
        name = request.params.get("object_id") or request.query.get("name", [None])[0]
        if request.query.get("uploadType") == ["multipart"]:
            name = request.data["meta"]["name"]
        before = generation(storage, bucket, name)
        if (status := refusal(request, storage, bucket, name, before)) is None:
            handler(request, response, storage)
            response["x-goog-generation"] = generation(storage, bucket, name)
            return
        request.data  # noqa: B018  (is read to the end, or the connection would break)
        response.status, message = status
        response.json({"error": {"code": response.status.value, "message": message}})

    return handle


def generation(storage: Any, bucket: str, name: str | None) -> str:
    """The number of an object's version, 0 where there is none."""
    try:
        return storage.get_file_obj(bucket, name)["generation"] if name else "0"
    except NotFound:
        return "0"


def refusal(request: Any, storage: Any, bucket: str, name: str | None, now: str) -> Any:
    """Status and message where the request is not to be done."""
    if bucket in REFUSED:
        return REFUSED[bucket]
    if request.query.get("generation", [now]) != [now]:
        return HTTPStatus.NOT_FOUND, "No such object"
    if request.query.get("ifGenerationMatch", [now]) != [now]:
        return HTTPStatus.PRECONDITION_FAILED, "another generation"
    if request.query.get("ifGenerationNotMatch") == [now]:
        return HTTPStatus.NOT_MODIFIED, ""
    start = (request.get_header("range") or "").removeprefix("bytes=").partition("-")[0]
    if start and now != "0" and int(start) >= len(storage.get_file(bucket, name)):
        return HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "The requested range is not satisfiable"
    return None


def move(request: Any, response: Any, storage: Any) -> None:
    """Rename an object in its bucket."""
    request.params["dest_bucket_name"] = request.params["bucket_name"]
    objects.copy(request, response, storage)
    objects.delete(request, response, storage)


MOVE = (
    r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)$"
)


class ExactParser(BytesParser):
    """Parses as usual, but gives an upload's second part byte for byte.

    The e-mail parser takes a line's end at the end of a binary part for the boundary's.
    """

    def parsebytes(self, text: bytes, headersonly: bool = False) -> Message:
        message = super().parsebytes(text, headersonly)
        parts = message.get_payload()
        if (
            isinstance(parts, list)
            and len(parts) == 2
            and "mixed" not in message.get_content_type()
        ):
            boundary = b"--" + message.get_boundary().encode()
            section = text.split(boundary)[2]
            newline = b"\r\n" if section.startswith(b"\r\n") else b"\n"
            exact = section.split(2 * newline, 1)[1].removesuffix(newline)
            parts[1].get_payload = lambda decode=False: exact
        return message


def main(log: str) -> None:
    """Serve until the input ends; requests are logged, a line each."""
    server.HANDLERS = tuple(
        (path, {m: as_google(h) for m, h in methods.items()} if "bucket_name" in path else methods)
        for path, methods in ((MOVE, {"POST": move}), *server.HANDLERS)
    )
    server.BytesParser = ExactParser
    with open(log, "w", buffering=1) as file:
        server.RequestHandler.log_message = lambda self, form, *words: print(
            form % words, file=file
        )
        running = server.create_server("127.0.0.1", 0, in_memory=True)
        create_bucket(BUCKET, running._storage)
        running.start()
        print(running._api._httpd.server_address[1], flush=True)
        sys.stdin.read()
        running.stop()


if __name__ == "__main__":
    main(sys.argv[1])
