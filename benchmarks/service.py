"""The service under load: requests per second beside the engine's own rate, latencies, wrong answers, memory.

python benchmarks/service.py [--model transxnet_t] [--img-size 224] [--json FILE] [-- OPTIONS OF glocal serve]

Three processes: `glocal serve`, with untrained weights; the engine alone, which computes batches of --max-batch; and
this one, the clients. The requests come in rounds, and the engine is measured before and after each of them, while the
others wait: a machine whose speed changes counts against neither. Requests per second are those while all clients ask,
a round's ratio is to the mean of the engine's two rates beside it, and the figures are medians over the rounds. Every
answer is compared with the predictor's for the same image. Linux only (/proc).
"""

import argparse
import base64
import http.client
import io
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = 24
NEAR = 1e-3  # of a probability: engines and batch sizes differ by less, images by more
BOUNDARY = "an-image-follows"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transxnet_t")
    parser.add_argument("--img-size", type=int, default=224, help="of the model")
    parser.add_argument("--pixels", type=int, help="side of the JPEG files that are sent (default: --img-size)")
    parser.add_argument("--body", choices=["form", "json"], default="form")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--engine-seconds", type=float, default=3.0, help="for each measurement of the engine alone")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    parser.add_argument("options", nargs="*", help="further options of glocal serve, after --")
    args = parser.parse_args()
    files = [jpeg(seed, args.pixels or args.img_size) for seed in range(IMAGES)]
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        os.environ["GLOCAL_CACHE"] = folder  # nothing is left behind
        alone = Alone(pool, Path(folder), args)
        expected = alone.prepare(files)
        check_distinct(expected)
        with Served(Path(folder), args) as served:
            figures = measure(served, alone, files, expected, args)
        row = {key: getattr(args, key) for key in ("model", "img_size", "body", "clients", "requests", "max_batch")}
        row |= {"pixels": args.pixels or args.img_size, "file_bytes": round(statistics.mean(map(len, files)))}
        row |= {"options": args.options} | figures | {"machine": alone.machine()}
    for key, value in row.items():
        print(f"{key}: {value}")
    if args.json:
        rows = json.loads(args.json.read_text()) if args.json.exists() else []
        args.json.write_text(json.dumps([*rows, row], indent=1) + "\n")
    if figures["wrong"] or figures["failed"]:
        sys.exit(f"{figures['wrong']} wrong answers, {figures['failed']} requests without one")


def jpeg(seed: int, side: int) -> bytes:
    """A picture of its own for every seed: coarse spots of random colours, which survive the compression."""
    spots = np.random.RandomState(seed).randint(0, 256, (5, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def check_distinct(expected: list[dict[str, float]]) -> None:
    """Exit where one image's answer would pass for another's, as a mix-up would go unseen then."""
    for (a, one), (b, other) in itertools.combinations(enumerate(expected), 2):
        if same(one, other):
            sys.exit(f"images {a} and {b} have the same answer")


def same(answer: dict[str, float], expected: dict[str, float]) -> bool:
    """Whether two answers, label to probability, are the same. The last label may be another, as equal ones may."""
    first = list(expected)[:-1]
    return all(label in answer and abs(answer[label] - expected[label]) < NEAR for label in first)


class Alone:
    """The engine in a process of its own."""

    def __init__(self, pool: ProcessPoolExecutor, folder: Path, args: argparse.Namespace):
        self.pool, self.folder, self.args = pool, folder, args

    def prepare(self, files: list[bytes]) -> list[dict[str, float]]:
        """Save weights into the folder; what the predictor says of each file, label to probability."""
        args = self.args
        return self.pool.submit(_prepare, self.folder, args.model, args.img_size, args.engine, files).result()

    def rate(self) -> float:
        """Images per second in full batches."""
        args = self.args
        return self.pool.submit(_rate, self.folder, args.engine, args.max_batch, args.engine_seconds).result()

    def machine(self) -> dict:
        return self.pool.submit(_machine).result()


def _prepare(folder: Path, name: str, size: int, engine: str, files: list[bytes]) -> list[dict[str, float]]:
    import timm
    import torch

    from glocal.data.preprocessing import Preprocessing
    from glocal.deploy.predictor import Predictor
    from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint

    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    preprocessing = Preprocessing.of_model(model, size)
    images = [Image.open(io.BytesIO(file)) for file in files]
    with torch.no_grad():  # untrained, all images look alike to a model: spread its logits, as training would
        logits = model(torch.stack([preprocessing.transform()(image) for image in images]))
        classifier = model.get_classifier()
        scale = 3 / (logits - logits.mean(0)).std()
        classifier.weight.mul_(scale)
        classifier.bias.sub_(logits.mean(0)).mul_(scale)
    names = [f"class {index}" for index in range(model.num_classes)]
    info = CheckpointInfo(name, names, preprocessing.to_dict())
    save_checkpoint(folder / "model.safetensors", model.state_dict(), info)
    predictions = Predictor(folder, engine=engine)(images)
    return [dict(zip(one.labels, one.probabilities, strict=True)) for one in predictions]


_compute = None  # the engine with a batch, in its process


def _rate(folder: Path, engine: str, batch: int, seconds: float) -> float:
    import torch

    from glocal.deploy import compile
    from glocal.deploy.graph import LogitsAndEmbedding
    from glocal.tasks.loading import load_trained

    global _compute
    if _compute is None:
        classifier = load_trained(folder)
        size = tuple(classifier.preprocessing["input_size"])
        images = torch.randn(batch, *size)
        _compute = partial(compile(LogitsAndEmbedding(classifier.model), engine, size), images)
        _compute()
    _compute()
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        _compute()
        count += batch
    return count / (time.perf_counter() - start)


def _machine() -> dict:
    import torch

    from glocal.bench.timing import machine

    packages = ("fastapi", "uvicorn", "openvino", "onnxruntime", "pillow")
    return machine(torch.device("cpu"), None) | {name: version(name) for name in packages}


class Served:
    """`glocal serve` as a process, from its first answer to its end."""

    def __init__(self, folder: Path, args: argparse.Namespace):
        command = [sys.executable, "-m", "glocal", "serve", "--checkpoint", str(folder), "--port", "0"]
        command += ["--max-batch", str(args.max_batch), "--engine", args.engine, *args.options]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def __enter__(self) -> "Served":
        while not (found := re.search(r"http://([\d.]+):(\d+)", self.log.read_text())):
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.1)
        self.host, self.port = found[1], int(found[2])
        while True:
            try:
                connection = http.client.HTTPConnection(self.host, self.port)
                connection.request("GET", "/health")
                self.engine = json.loads(connection.getresponse().read())["engine"]
                return self
            except ConnectionError:
                time.sleep(0.1)

    def __exit__(self, *error) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            sys.exit(self.log.read_text())

    def memory(self) -> float:
        """Resident, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, 1)

    def threads_and_files(self) -> tuple[int, int]:
        process = Path(f"/proc/{self.process.pid}")
        return len(os.listdir(process / "task")), len(os.listdir(process / "fd"))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def body_of(file: bytes, kind: str) -> tuple[bytes, str]:
    """A request's body and content type."""
    if kind == "json":
        return json.dumps({"images": base64.b64encode(file).decode()}).encode(), "application/json"
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n'
    head += "Content-Type: image/jpeg\r\n\r\n"
    return head.encode() + file + f"\r\n--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


class Load:
    """Clients in threads, each with a connection of its own, that send one request after the other."""

    def __init__(self, served: Served, files: list[bytes], expected: list[dict[str, float]], kind: str):
        self.served = served
        self.requests = list(zip([body_of(file, kind) for file in files], expected, strict=True))
        self.seconds: list[float] = []
        self.times: list[float] = []  # of the answers
        self.wrong: list[str] = []
        self.failed: list[str] = []

    def run(self, clients: int, count: int) -> float:
        """Send so many requests; returns the answers per second from when all clients have one until one stops."""
        self.times.clear()
        places = iter(range(count))
        threads = [threading.Thread(target=self._client, args=(places,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        steady = sorted(self.times)[clients - 1 : 1 - clients or None]
        return (len(steady) - 1) / (steady[-1] - steady[0])

    def _client(self, places) -> None:
        connection = http.client.HTTPConnection(self.served.host, self.served.port, timeout=120)
        for place in places:
            (body, kind), expected = self.requests[place % len(self.requests)]
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict?top_k=5", body, {"Content-Type": kind})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
                continue
            self.times.append(time.perf_counter())
            self.seconds.append(time.perf_counter() - start)
            if response.status != 200:
                self.failed.append(f"{response.status} {content[:200]}")
                continue
            (result,) = json.loads(content)["results"]
            if not same(dict(zip(result["labels"], result["probabilities"], strict=True)), expected):
                self.wrong.append(f"image {place % len(self.requests)}: {result}, expected {expected}")
        connection.close()


def measure(
    served: Served, alone: Alone, files: list[bytes], expected: list[dict[str, float]], args: argparse.Namespace
) -> dict:
    warm = Load(served, files, expected, args.body)
    warm.run(1, 2)  # OpenVINO compiles for one image and for several when they come first
    warm.run(args.clients, 4 * args.clients)
    load = Load(served, files, expected, args.body)
    engine, service, memory, spent = [alone.rate()], [], {}, [0.0, 0.0, 0.0]
    for _ in range(args.rounds):
        before = time.perf_counter(), served.cpu_seconds(), time.process_time()
        service.append(load.run(args.clients, args.requests // args.rounds))
        after = time.perf_counter(), served.cpu_seconds(), time.process_time()
        spent = [sum(values) - start for *values, start in zip(spent, after, before, strict=True)]
        memory[len(load.seconds)] = served.memory()
        counts = served.threads_and_files()
        engine.append(alone.rate())
    for problem in (load.wrong + load.failed)[:5]:
        print(problem, file=sys.stderr)
    ratios = [2 * rate / (a + b) for rate, a, b in zip(service, engine, engine[1:], strict=False)]
    percentiles = statistics.quantiles(load.seconds, n=100)
    return {
        "runtime": served.engine,
        "requests_per_second": round(statistics.median(service), 1),
        "engine_images_per_second": round(statistics.median(engine), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "p50_ms": round(1000 * percentiles[49], 1),
        "p99_ms": round(1000 * percentiles[98], 1),
        "answered": len(load.seconds),
        "failed": len(load.failed),
        "wrong": len(load.wrong),
        "memory_mib": memory,  # after so many answers
        "threads": counts[0],
        "open_files": counts[1],
        "server_cores": round(spent[1] / spent[0], 2),
        "client_cores": round(spent[2] / spent[0], 2),
    }


if __name__ == "__main__":
    main()
