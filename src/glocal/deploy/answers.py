"""What requests to the service and its answers look like, for the description at /openapi.json."""

from typing import Literal

from glocal.errors import MissingExtraError

try:
    from pydantic import BaseModel, Field, FiniteFloat
except ImportError:
    raise MissingExtraError("a service needs FastAPI: pip install 'glocal[serve]'") from None


class Prediction(BaseModel):
    """The most probable classes of an image, the likeliest first."""

    name: str = Field(description="Of the file, or image and its place")
    labels: list[str]
    probabilities: list[FiniteFloat]


class Predictions(BaseModel):
    model: str
    results: list[Prediction] = Field(description="In the order of the images")


class Embedding(BaseModel):
    """The features of an image before the classifier."""

    name: str = Field(description="Of the file, or image and its place")
    embedding: list[FiniteFloat]


class Embeddings(BaseModel):
    model: str
    results: list[Embedding] = Field(description="In the order of the images")


class Health(BaseModel):
    status: Literal["ok"]
    model: str
    engine: Literal["openvino", "onnxruntime", "torch"]
    classes: int


class Problem(BaseModel):
    """What every answer with a status of 400 and more holds."""

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
    """The answers with these codes, for a route's description."""
    return {code: {"model": Problem, "description": PROBLEMS[code]} for code in codes}


def problems_anywhere(*codes: int) -> dict:
    """As `problems`, for all routes: they are JSON also where the answer itself is not, which a model would not say."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"content": content, "description": PROBLEMS[code]} for code in codes}


def body(most: int) -> dict:
    """The description of a request with 1 to `most` images."""
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
    for kind, one in forms.items():
        images = listed | {"items": one}
        images = {"anyOf": [images, one]} if one is encoded else images
        schema = {"type": "object", "required": ["images"], "properties": {"images": images}}
        content[kind] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}
