"""Answer requests over HTTP: classes and embeddings of images, with a page to try it in a browser.

POST /predict and /embed take images as multipart form data (fields "images") or as JSON {"images": [base64, …]};
GET / is a page, /docs describes the requests, /health and /metrics (Prometheus) are for those who watch. Stopped by a
signal, the service finishes what it has accepted.
"""

from glocal.deploy.config import ServeConfig

CONFIG = ServeConfig
POSITIONAL: dict[str, str] = {}


def run(config: ServeConfig) -> int:
    from glocal.deploy.server import serve

    serve(config)
    return 0
