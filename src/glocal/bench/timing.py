"""Times models side by side: in turns, so that other work of the machine slows all of them alike."""

import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate, islice
from typing import TypeVar

import timm
import torch

from glocal.bench.config import BenchConfig, is_run, numbers, parse_model, parse_sizes
from glocal.bench.steps import Entry, cost_of, step_of
from glocal.device import resolve_device, torch_threads
from glocal.errors import InvalidValueError
from glocal.models.arguments import check_head_arguments
from glocal.models.create import ALL_HEADS
from glocal.ops import dispatch
from glocal.tasks.checkpoint import find_checkpoint
from glocal.tasks.creation import check_name
from glocal.wording import one_line

Key = TypeVar("Key", bound=Hashable)
CPU = torch.device("cpu")
SHORTEST = 0.02  # seconds: on a GPU, steps are repeated until a sample takes as long


@dataclass(frozen=True)
class Timing:
    """A model at a batch size and an image size, (height, width) in pixels.

    ms: median time per image; spread: that of the third quartile over that of the first; fastest: the shortest time,
    which a busy machine moves least. ratio, fastest_ratio: to the baseline's median and shortest. memory: the most that
    a step has allocated at a time, in MiB, without the weights and the optimizer's state, but with what a model keeps
    for a size; None for other engines than torch, and devices other than cpu and cuda. error: why there are no figures,
    "" where there are. head: "" for a backbone alone; its ratios are to the baseline alone. params, macs: of tasks with
    heads, parameters and multiply–accumulates of one image, in numbers. boxes: objects that were found in an image, on
    average; parts: the shares of `Parts` in the time; both for inference of detectors.
    """

    model: str
    batch_size: int
    size: tuple[int, int]
    ms: float | None = None
    spread: float | None = None
    ratio: float | None = None
    fastest: float | None = None
    fastest_ratio: float | None = None
    memory: float | None = None
    error: str = ""
    head: str = ""
    params: int | None = None
    macs: int | None = None
    boxes: float | None = None
    parts: dict[str, float] | None = None


def compare(
    config: BenchConfig, watch: Callable[[Iterable, int], Iterable] = lambda items, total: items
) -> list[Timing]:
    """Time all models at all batch sizes and image sizes, the baseline among them.

    watch: wraps the rounds, to show progress; called with them and their number.

    Raises ValueError for an unknown model or device. A model that fails at a size is reported there, and the others
    are still timed.
    """
    names = list(dict.fromkeys([config.baseline, *config.models]))
    for name in names:
        if is_run(name):
            if config.mode == "train":
                raise InvalidValueError(
                    f"{name} is a run, which is timed in inference: for --mode train give its model's name"
                )
            find_checkpoint(name)
        else:
            check_name(parse_model(name)[0])
    if config.head:
        check_head_arguments(config.head, config.head_args, ALL_HEADS[config.head].head_args)
    device = resolve_device(config.device)
    if config.engine != "torch":
        device = torch.device("cpu")
    cells = [(size, batch) for size in parse_sizes(config.sizes) for batch in numbers(config.batch_sizes, "")]
    timings = []
    with torch_threads(config.threads):
        rounds = iter(watch(range(len(cells) * config.rounds), len(cells) * config.rounds))
        for size, batch in cells:
            timings += _cell(_entries(names, config), config, device, size, batch, rounds)
        next(rounds, None)
    return timings


def _entries(names: list[str], config: BenchConfig) -> list[Entry]:
    """What is timed, in order: the models, of tasks with heads with the head, and if it is asked for, without."""
    if not config.head:
        return [Entry(name) for name in names]
    heads = ("", config.head) if config.backbones else (config.head,)
    return [Entry(name, head) for name in names for head in ([""] if is_run(name) else heads)]


def _cell(
    entries: list[Entry],
    config: BenchConfig,
    device: torch.device,
    size: tuple[int, int],
    batch: int,
    rounds: Iterator[int],
) -> list[Timing]:
    """All models at one size."""
    steps, errors, memory, boxes, repeats, costs = {}, {}, {}, {}, {}, {}
    for entry in entries:
        try:
            costs[entry] = cost_of(entry, config, size)
            steps[entry] = step = step_of(entry, config, device, size, batch)
            # In inference the memory of the first step, which makes what is kept for the size. Elsewhere it also makes
            # what is no part of the others: an optimizer's state, compiled code.
            first = config.mode == "infer" and not config.compile
            if not first:
                step.run()
            memory[entry] = _peak_memory(step.run, device) if config.engine == "torch" else None
            if first:
                step.run()
            start = _now(device)
            found = step.run()
            seconds = _now(device) - start
            repeats[entry] = max(1, round(SHORTEST / seconds)) if device.type != "cpu" else 1
            if step.finds:
                boxes[entry] = sum(map(len, found[0])) / batch
            if step.parts:
                step.parts.reset()
        except Exception as error:  # whatever a model, a compiler or a driver raises, the others are timed
            steps.pop(entry, None)
            errors[entry] = one_line(error, 200)
    runs = {entry: step.run for entry, step in steps.items()}
    seconds = {
        entry: [one / batch for one in found]
        for entry, found in in_turns(runs, islice(rounds, config.rounds), device, repeats).items()
    }
    timings = []
    for entry in entries:
        row = partial(Timing, entry.name, batch, size, head=entry.head)
        if entry in errors:
            timings.append(row(error=errors[entry]))
            continue
        base = seconds.get(entry._replace(name=config.baseline))
        median, shortest = statistics.median(seconds[entry]), min(seconds[entry])
        quartiles = (
            statistics.quantiles(seconds[entry], n=4, method="inclusive")
            if len(seconds[entry]) > 1
            else [1.0, 1.0, 1.0]
        )
        timings.append(
            row(
                ms=1000 * median,
                spread=quartiles[2] / quartiles[0],
                ratio=median / statistics.median(base) if base else None,
                fastest=1000 * shortest,
                fastest_ratio=shortest / min(base) if base else None,
                memory=memory.get(entry),
                boxes=boxes.get(entry),
                parts=steps[entry].parts and steps[entry].parts.shares(),
                **costs[entry],
            )
        )
    steps.clear()
    runs.clear()
    gc.collect()
    if config.compile:  # else the next size is compiled for any size, and one of the next not at all
        torch.compiler.reset()
    return timings


def in_turns(
    steps: Mapping[Key, Callable[[], object]],
    rounds: Iterable,
    device: torch.device = CPU,
    repeats: Mapping[Key, int] | None = None,
) -> dict[Key, list[float]]:
    """The seconds that each step takes, once in every round: the steps take turns.

    repeats: how many times a step is taken for a sample, once if nothing is said.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in steps}
    for _ in rounds:
        for key, step in steps.items():
            count = repeats[key] if repeats else 1
            start = _now(device)
            for _ in range(count):
                step()
            seconds[key].append((_now(device) - start) / count)
    return seconds


def _peak_memory(step: Callable[[], object], device: torch.device) -> float | None:
    """The most that a step has allocated at a time, in MiB."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if device.type != "cpu":
        step()
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell the terminal that it starts and stops
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in changes), default=0) / 2**20


def _now(device: torch.device) -> float:
    """Seconds on a clock, after the device has finished all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True)
class Growth:
    """How a model's time and memory per image grow with the pixels of an image: as pixels ** exponent (fitted)."""

    model: str
    batch_size: int
    time: float
    memory: float | None
    head: str = ""


def growth(timings: list[Timing]) -> list[Growth]:
    """The growth of every model that was measured at three sizes or more, by batch size."""
    groups: dict[tuple[str, str, int], list[Timing]] = {}
    for timing in timings:
        if not timing.error:
            groups.setdefault((timing.model, timing.head, timing.batch_size), []).append(timing)
    found = []
    for (model, head, batch), group in groups.items():
        if len({math.prod(timing.size) for timing in group}) >= 3:
            pixels = [math.log(math.prod(timing.size)) for timing in group]
            time = statistics.linear_regression(pixels, [math.log(timing.ms) for timing in group]).slope
            memory = None
            if all(timing.memory for timing in group):
                memory = statistics.linear_regression(pixels, [math.log(timing.memory) for timing in group]).slope
            found.append(Growth(model, batch, time, memory, head))
    return found


def machine(device: torch.device, threads: int | None) -> dict:
    """What the figures were measured on."""
    from glocal import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "date": date.today().isoformat(),
        "device": name,
        "threads": threads or torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        **{name: version(name) if find_spec(name) else None for name in ("triton", "openvino", "onnxruntime")},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "ops": dispatch.backend(),
        "glocal": __version__,
    }
