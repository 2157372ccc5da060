"""A training run as a script, for tests: Lightning starts it again for every further device.

Arguments: the options of `TrainConfig` as JSON, and the batch before which the run dies, or -1.
"""

import json
import os
import signal
import sys

import torch

from glocal.training import callbacks
from glocal.training.config import TrainConfig
from glocal.training.lightning_module import TrainingModule
from glocal.training.train import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    callbacks.STEPS_BETWEEN_TALKS = 1
    original, seen, last = TrainingModule.training_step, [], int(sys.argv[2])

    def step(self, *args):
        seen.append(1)
        if 0 <= last < len(seen):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args)

    TrainingModule.training_step = step
    train(TrainConfig(**json.loads(sys.argv[1])))
