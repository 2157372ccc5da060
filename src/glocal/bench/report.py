"""One whole comparison: the timings, their growth with the image's size, and the machine they are of."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from glocal.bench.config import BenchConfig
from glocal.bench.timing import Growth, Timing, compare, growth, machine
from glocal.device import resolve_device


@dataclass(frozen=True)
class Report:
    """machine: its facts by name. growth: empty for a single size."""

    config: BenchConfig
    machine: dict
    timings: list[Timing]
    growth: list[Growth]

    def to_dict(self) -> dict:
        """Ready for JSON."""
        return {
            "machine": self.machine,
            "options": {name: value for name, value in asdict(self.config).items() if name != "json"},
            "timings": [asdict(row) for row in self.timings],
            "growth": [asdict(row) for row in self.growth],
        }


def measure(config: BenchConfig, track: Callable[[Iterable, int], Iterable] = lambda items, total: items) -> Report:
    """Time the models of a configuration. track: passes on the rounds while it shows progress."""
    timings = compare(config, track)
    return Report(config, machine(resolve_device(config.device), config.threads), timings, growth(timings))
