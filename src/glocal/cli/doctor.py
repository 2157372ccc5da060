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
    from glocal.ops import listing

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
    rows |= {f"engine {name}": installed(name) for name in ("openvino", "onnxruntime")}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory = f"{gpu.total_memory / 2**30:.0f} GiB"
        rows[f"GPU {index}"] = f"{gpu.name}, {memory}, compute capability {gpu.major}.{gpu.minor}"
    if not torch.cuda.device_count():
        rows["GPU"] = "none that torch can use"
    screen = console()
    screen.print(facts("This machine", rows))
    table = Table("extra", "what is missing", prose=True)
    for extra, missing in extras().items():
        table.add_row(extra, f"{', '.join(missing)}: pip install 'glocal[{extra}]'" if missing else "nothing")
    screen.print(table)
    table = Table("op", "device", "backend", "why not another", prose=True)
    for row in listing.report():
        table.add_row(*row)
    screen.print(table)
    return 0


def extras() -> dict[str, list[str]]:
    """The extras of the library, each with those of its packages that are not installed."""
    from importlib.metadata import PackageNotFoundError, metadata, version

    from packaging.requirements import Requirement

    def missing(extra: str) -> list[str]:
        found = []
        for requirement in requirements:
            if not _is_for(requirement, extra):
                continue
            if requirement.name == "glocal":
                found += [one for part in sorted(requirement.extras) for one in missing(part)]
                continue
            try:
                version(requirement.name)
            except PackageNotFoundError:
                found.append(requirement.name)
        return list(dict.fromkeys(found))

    try:
        about = metadata("glocal")
    except PackageNotFoundError:  # run from a folder of sources
        return {}
    requirements = [Requirement(text) for text in about.get_all("Requires-Dist") or []]
    return {extra: missing(extra) for extra in about.get_all("Provides-Extra") or []}


def _is_for(requirement, extra: str) -> bool:
    return requirement.marker is not None and (
        requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate({"extra": ""})
    )
