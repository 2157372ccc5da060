"""Schemas of the service's requests and answers, for /openapi.json."""

from typing import Literal

from glocal.errors import MissingExtraError
from glocal.tasks.task import Task

try:
    from pydantic import BaseModel, Field, FiniteFloat, create_model
except ImportError:
    raise MissingExtraError("a service needs FastAPI: pip install 'glocal[serve]'") from None


def predictions(task: Task) -> type[BaseModel]:
    """The schema of an answer for a task: the task's fields for each image."""
    finite = {float: FiniteFloat, list[float]: list[FiniteFloat], list[list[float]]: list[list[FiniteFloat]]}
    fields = {name: (finite.get(kind, kind), ...) for name, kind in task.answer_fields.items()}
    name = (str, Field(description="Of the file, or image and its place"))
    result = create_model(task.result_class.__name__, __doc__=task.result_class.__doc__, name=name, **fields)
    results = (list[result], Field(description="In the order of the images"))
    return create_model(f"{result.__name__}s", model=(str, ...), results=results)


class Embedding(BaseModel):
    """The features of an image before the classifier."""

    name: str = Field(description="Of the file, or image and its place")
    embedding: list[FiniteFloat]


class Embeddings(BaseModel):
    model: str
    results: list[Embedding] = Field(description="In the order of the images")


class ShownLine(BaseModel):
    text: str
    value: str
    share: FiniteFloat | None = Field(description="Of 1, where the value is a part of a whole")
    color: str | None = Field(description="#rrggbb, of what the line is about in the overlay")


class Shown(BaseModel):
    """A result for people."""

    lines: list[ShownLine]
    picture: str | None = Field(
        description="The image with the result on it, or alone where there is an overlay, as a data: address"
    )
    overlay: str | None = Field(description="What to show above the picture, in its size, as a data: address")


class ShownResults(BaseModel):
    results: list[Shown] = Field(description="In the order of the images")


class Health(BaseModel):
    status: Literal["ok"]
    model: str
    engine: Literal["openvino", "onnxruntime", "torch"]
    classes: int


class Problem(BaseModel):
    """The body of every answer with a status of 400 or more."""

    detail: str


PROBLEMS = {
    400: "The request cannot be read, or its Host is not one of this service's",
    408: "The request did not arrive in time",
    413: "The request is too large, or holds too many images",
    415: "The body is neither a form nor JSON",
    422: "An image cannot be read, or a value is wrong",
    500: "The service failed",
    503: "Too much is waiting already: try again",
    504: "No answer in time",
}


def problems(*codes: int) -> dict:
    """The answers with these codes, for the description of a route."""
    return {code: {"model": Problem, "description": PROBLEMS[code]} for code in codes}


def problems_anywhere(*codes: int) -> dict:
    """As `problems`, for all routes: these answers are JSON even if a route's own answer is not."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"content": content, "description": PROBLEMS[code]} for code in codes}


def body(most: int) -> dict:
    """The description of a request with 1 to `most` images, as a form or as JSON."""
    listed = {"type": "array", "minItems": 1, "maxItems": most}
    encoded = {
        "type": "string",
        "format": "byte",
        "contentEncoding": "base64",
        "description": "Of a file; also a data: address",
    }
    forms = {
        "multipart/form-data": {"type": "string", "format": "binary"},
        "application/json": encoded,
    }
    content = {}
    for kind, image in forms.items():
        images = listed | {"items": image}
        images = {"anyOf": [images, image]} if image is encoded else images
        schema = {"type": "object", "required": ["images"], "properties": {"images": images}}
        content[kind] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}
