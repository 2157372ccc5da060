"""The same shards on a Ray cluster: Ray Data hands them to actors, of which each has a predictor of its own."""

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

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that starts here reports to nobody
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of Ray's own affairs
try:
    import ray
    import ray.data
except ImportError:
    raise MissingExtraError("--ray needs Ray: pip install 'glocal[cluster]'") from None

TRIES = 3  # of a shard whose worker dies


class Worker:
    """An actor that writes one shard after the other.

    folder: where the paths of the config begin.
    """

    def __init__(self, config: PredictConfig | EmbedConfig, threads: int, folder: str):
        self.config = config
        self.threads = threads
        self.folder = folder
        self.predictor = None

    def __call__(self, row: dict) -> dict:
        """Write the shard of a row; what goes wrong comes back as `error`, in one line."""
        shard = Shard(int(row["number"]), [os.fsdecode(file) for file in row["files"]])
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
        """Leave a temporary file, which goes when the shard is written; RuntimeError where others were left before.

        Ray begins the work of a dead worker again, and again, also where the work is what killed it.
        """
        output = Path(self.config.output)
        if len([*output.glob(temporary_name(number, "*"))]) >= TRIES:
            raise WorkError(f"its worker died {TRIES} times")
        (output / temporary_name(number)).touch()


def write_on_cluster(config: PredictConfig | EmbedConfig, shards: list[Shard]) -> Iterator[int]:
    """Write shards on a cluster; gives the number of each when it is there.

    A shard whose worker dies is begun again by another. Raises ValueError for more workers or GPUs than there are,
    RuntimeError where a shard fails or the cluster does.
    """
    started = not ray.is_initialized()
    try:
        if started:
            _connect(config.ray_address)
        workers, threads, needs = share(config, len(shards), ray.cluster_resources(), _machines())
        rows = [{"number": shard.number, "files": [os.fsencode(file) for file in shard.files]} for shard in shards]
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
    """How many workers a cluster gets, the threads of each, and what Ray is to reserve for one."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    on_gpus = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    most, kind = (gpus, "GPU") if on_gpus else (cpus, "CPU")
    workers = config.workers or (gpus if on_gpus else machines)
    if workers > most or not workers:
        raise InvalidValueError(
            f"the cluster has {counted(most, kind)}, too few for {counted(max(1, workers), 'worker')}"
        )
    workers = min(workers, shards)
    # Of the CPUs half is left to what Ray Data itself runs, or actors and its tasks would wait for each other.
    return workers, max(1, cpus // workers), {"num_gpus": 1} if on_gpus else {"num_cpus": 0.5}


def _machines() -> int:
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def _connect(address: str | None) -> None:
    """Connect to a cluster, or start a Ray on this machine, without its messages and progress bars."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit():  # or Ray would try for minutes
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
    """Ray's core, which is no Python, says on stderr which log level it was told."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
