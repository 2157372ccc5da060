"""Reading the images in the body of a request, which is a form or JSON."""

import asyncio
import base64
import binascii
import json

from glocal.errors import MissingExtraError

try:
    from fastapi import HTTPException, Request
    from python_multipart.multipart import parse_options_header
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser
except ImportError:
    raise MissingExtraError("a service needs FastAPI: pip install 'glocal[serve]'") from None


async def read_images(request: Request, most: int) -> list[tuple[str, bytes]]:
    """The names and contents of the files in a request; HTTPException if the body is wrong."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await asyncio.to_thread(_images_in_json, await request.body(), most)  # it may take tenths of a second
    if kind == "multipart/form-data":
        return await _images_in_form(request, most)
    raise HTTPException(415, "send multipart/form-data or application/json")


async def _images_in_form(request: Request, most: int) -> list[tuple[str, bytes]]:
    """The images of a form. Names are read as UTF-8, else Latin-1; the form's own charset could be any codec."""
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046
        raise HTTPException(400, "the form has no boundary of 1 to 70 letters")
    headers = Headers(raw=[(b"content-type", b'multipart/form-data; boundary="' + _quoted(boundary) + b'"')])
    parser = MultiPartParser(headers, request.stream(), max_files=most)
    parser.spool_max_size = 0  # keep files in memory: the size of the body is limited
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):  # the exception has no code
            raise HTTPException(413, f"no more than {most} images are taken in one request") from None
        raise HTTPException(400, error.message) from None
    uploads = [upload for _, upload in form.multi_items() if isinstance(upload, UploadFile)]
    try:
        _check_count(len(uploads), most)
        return [(_shown(upload.filename or "image"), await upload.read()) for upload in uploads]
    finally:
        await form.close()


def _quoted(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _shown(name: str) -> str:
    """A name that JSON can hold."""
    return name.encode("utf-8", "backslashreplace").decode()


def _images_in_json(content: bytes, most: int) -> list[tuple[str, bytes]]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    encoded = body.get("images") if isinstance(body, dict) else None
    encoded = [encoded] if isinstance(encoded, str) else encoded
    if not isinstance(encoded, list) or not all(isinstance(text, str) for text in encoded):
        raise HTTPException(422, 'the body must be {"images": ["base64 of a file", …]}')
    _check_count(len(encoded), most)
    return [(f"image {place}", _from_base64(text, place)) for place, text in enumerate(encoded)]


def _check_count(count: int, most: int) -> None:
    if not count:
        raise HTTPException(422, "there is no image in the request")
    if count > most:
        raise HTTPException(413, f"{count} images in one request, no more than {most} are taken")


def _from_base64(text: str, place: int) -> bytes:
    try:
        encoded = text.rpartition("base64,")[2]  # also from a data: address
        return base64.b64decode("".join(encoded.split()), validate=True)  # programs write it in lines
    except (binascii.Error, ValueError):
        raise HTTPException(422, f"image {place} is no base64") from None
