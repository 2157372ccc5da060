"""Shards on a Ray cluster: Ray Data hands them to actors, and each actor has its own predictor."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glocal.data.inputs import Shard
from glocal.deploy.config import EmbedConfig, ImagesConfig, PredictConfig
from glocal.deploy.parts import part_name, temporary_name, write_shard
from glocal.deploy.rows import load_predictor
from glocal.errors import InvalidValueError, MissingExtraError, WorkError
from glocal.wording import counted, one_line

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that starts here sends no usage reports
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # messages about Ray itself
try:
    import ray
    import ray.data
except ImportError:
    raise MissingExtraError("--ray needs Ray: pip install 'glocal[cluster]'") from None

TRIES = 3  # for a shard whose worker dies


class Worker:
    """An actor that writes shards.

    folder: the folder to which the relative paths of the config refer.
    """

    def __init__(self, config: PredictConfig | EmbedConfig, threads: int, folder: str):
        self.config = config
        self.threads = threads
        self.folder = folder
        self.predictor = None

    def __call__(self, row: dict) -> dict:
        """Write the shard of a row; `error` of the result is the message of a failure, in one line, or ""."""
        files = [os.fsdecode(file) for file in row["files"]]
        shard = Shard(int(row["number"]), files, with_videos=bool(row["with_videos"]))
        error = ""
        try:
            os.chdir(self.folder)
            self._note_try(shard.number)
            if self.predictor is None:
                self.predictor = load_predictor(self.config, self.threads)
            write_shard(self.predictor, self.config, shard)
        except (ValueError, TypeError, ImportError, RuntimeError, OSError, MemoryError) as failure:
            error = one_line(failure)
        return {"number": shard.number, "error": error}

    def _note_try(self, number: int) -> None:
        """Leave a temporary file until the shard is written; RuntimeError after `TRIES` such files.

        Ray retries a task whose worker died, even if the task caused the crash.
        """
        output = Path(self.config.output)
        if len([*output.glob(temporary_name(number, "*"))]) >= TRIES:
            raise WorkError(f"its worker died {TRIES} times")
        (output / temporary_name(number)).touch()


def write_on_cluster(config: PredictConfig | EmbedConfig, shards: list[Shard]) -> Iterator[int]:
    """Write shards on a cluster; yields the number of each shard when its file is complete.

    If a worker dies, another worker begins its shard again. Raises ValueError if the cluster has too few CPUs or GPUs
    for the workers, RuntimeError if a shard or the cluster fails.
    """
    started = not ray.is_initialized()
    try:
        if started:
            _connect(config.ray_address)
        workers, threads, needs = share(config, len(shards), ray.cluster_resources(), _machines())
        rows = [
            {
                "number": shard.number,
                "files": [os.fsencode(file) for file in shard.files],
                "with_videos": shard.with_videos,
            }
            for shard in shards
        ]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(config, threads, os.getcwd()),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            **needs,
        )
        for row in done.iter_rows():
            if row["error"]:
                raise WorkError(f"{part_name(row['number'])}: {row['error']}")
            yield row["number"]
    except ray.exceptions.UserCodeException:  # a bug
        raise
    except ray.exceptions.RayError as error:
        raise WorkError(f"Ray gave up: {one_line(error, first_only=True)}") from error
    finally:
        if started:
            ray.shutdown()


def share(config: ImagesConfig, shards: int, resources: dict[str, float], machines: int) -> tuple[int, int, dict]:
    """The number of workers on a cluster, the threads of each, and the resources that Ray reserves for each."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    on_gpus = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    most, kind = (gpus, "GPU") if on_gpus else (cpus, "CPU")
    workers = config.workers or (gpus if on_gpus else machines)
    if workers > most or not workers:
        raise InvalidValueError(
            f"the cluster has {counted(most, kind)}, too few for {counted(max(1, workers), 'worker')}"
        )
    workers = min(workers, shards)
    # Half of the CPUs stay free for the tasks of Ray Data itself: otherwise actors and tasks wait for each other.
    return workers, max(1, cpus // workers), {"num_gpus": 1} if on_gpus else {"num_cpus": 0.5}


def _machines() -> int:
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def _connect(address: str | None) -> None:
    """Connect to a cluster, or start a Ray on this machine, without its messages and progress bars."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit():  # otherwise Ray tries for minutes
            socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
        with _without_stderr():
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkError(f"there is no Ray cluster at {address}: {one_line(error)}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


@contextmanager
def _without_stderr():
    """Hide stderr: Ray's core, which is C++, prints its log level there."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
