"""The one form of multipart that the platform takes: a file in a part named "file"."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser

from product_live_worker.sandbox.refusals import MalformedError


def file_part(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Filename and content of the part named "file"; raises MalformedError."""
    boundary = _boundary(content_type)
    # A part stands between two delimiters, each on a line of its own; what no delimiter follows was cut.
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    for part in parts[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        headers = BytesHeaderParser().parsebytes(head.lstrip() + b"\r\n\r\n")
        filename = headers.get_filename()
        if headers.get_param("name", header="content-disposition") == "file" and filename:
            return filename, content
    raise MalformedError('there is no part named "file" with a filename')


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        raise MalformedError("not multipart/form-data")
    return boundary.encode("latin-1", "replace")
