"""Say what this machine has, which backend computes each op here, and why not another."""

from dataclasses import dataclass

from glocal.cli.output import console
from glocal.terminal import Table, facts


@dataclass(frozen=True)
class DoctorConfig:
    """There is nothing to choose; GLOCAL_OPS in the environment is auto, reference or triton."""


CONFIG = DoctorConfig
POSITIONAL = {}


def run(config: DoctorConfig) -> int:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from glocal import __version__
    from glocal.ops import dispatch

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    rows = {
        "glocal": __version__,
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
    }
    rows |= {package: installed(package) for package in ("timm", "triton", "lightning")}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory = f"{gpu.total_memory / 2**30:.0f} GiB"
        rows[f"GPU {index}"] = f"{gpu.name}, {memory}, compute capability {gpu.major}.{gpu.minor}"
    if not torch.cuda.device_count():
        rows["GPU"] = "none that torch can use"
    screen = console()
    screen.print(facts("This machine", rows))
    table = Table("op", "device", "backend", "why not another", prose=True)
    for row in dispatch.report():
        table.add_row(*row)
    screen.print(table)
    return 0
