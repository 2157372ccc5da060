"""A training run as a script, for tests: Lightning starts it again for every further device.

The loss has a second part, which is twice the loss.

Arguments: the options of `TrainConfig` as JSON, and the batch before which the run dies, or -1.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import traceback
from subprocess import CompletedProcess

import torch

from glocal.tasks.classification.objective import ClassificationObjective
from glocal.training import callbacks
from glocal.training.config import TrainConfig
from glocal.training.lightning_module import TrainingModule
from glocal.training.train import train


def launch(settings: dict, die: int = -1, torchrun: bool = False) -> CompletedProcess:
    """Run this script in a fork of this process, which need not import torch again; SETTINGS are its options.

    torchrun: with a fork for each device, told what torchrun tells; otherwise Lightning starts the further ones.
    """
    command = [__file__, json.dumps(settings), str(die)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def run(environment):
            os.environ.update(environment)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
            sys.argv, sys.modules["__main__"].__spec__ = command, None  # what Lightning starts for the other devices
            try:
                main(settings, die)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

        fork = multiprocessing.get_context("fork")
        environments = told_by_torchrun(settings["devices"]) if torchrun else [{}]
        children = [fork.Process(target=run, args=(environment,)) for environment in environments]
        for child in children:
            child.start()
        for child in children:
            child.join(300)
            if child.is_alive():
                child.kill()
                child.join()
        for file in (out, err):
            file.seek(0)
        return CompletedProcess(command, children[0].exitcode, out.read(), err.read())


def told_by_torchrun(devices: int) -> list[dict[str, str]]:
    """The environment of each process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
    common |= {"WORLD_SIZE": str(devices), "LOCAL_WORLD_SIZE": str(devices)}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(devices)]


def main(settings: dict, last: int) -> None:
    torch.set_num_threads(1)
    callbacks.STEPS_BETWEEN_TALKS = 1
    original, seen = TrainingModule.training_step, []

    def step(self, *args):
        seen.append(1)
        if 0 <= last < len(seen):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args)

    objective = ClassificationObjective.__call__

    def with_parts(self, *args):
        loss = objective(self, *args)["loss"]
        return {"loss": loss, "double": 2 * loss}

    TrainingModule.training_step = step
    ClassificationObjective.__call__ = with_parts
    train(TrainConfig(**settings))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
