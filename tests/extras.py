"""Which extra of the package a missing library belongs to, as pyproject.toml has it."""

import re
from functools import cache
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11, where pytest brings it along
    import tomli as tomllib

# Where a project is not imported by its own name.
IMPORTED = {
    "scikit-learn": "sklearn",
    "scikit-image": "skimage",
    "imagecorruptions-imaug": "imagecorruptions",
    "pytest-xdist": "xdist",
}


@cache
def extra_of() -> dict[str, str]:
    """Name to import → the extra that installs it, the first where several do."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = {}
    for extra, requirements in extras.items():
        for requirement in requirements:
            project = re.match(r"[\w.-]+", requirement)[0]
            if project != "glocal":
                found.setdefault(IMPORTED.get(project, project.replace("-", "_")), extra)
    return found


def skip_where_missing(report, path: Path) -> None:
    """Turn the report of a test module that failed to be collected into a skip, if it is for want of a library."""
    reason = missing(report.call.excinfo.value) if report.failed else None
    if reason is not None:
        report.outcome, report.longrepr = "skipped", (str(path), None, f"Skipped: {reason}")


def missing(error: BaseException | None) -> str | None:
    """What to install for a test module whose import raised `error`; None where it is no library of an extra."""
    while error is not None:
        if isinstance(error, ImportError):
            if "pip install 'glocal[" in str(error):  # the library's own words
                return str(error)
            library = (error.name or "").partition(".")[0]
            if library in extra_of():
                return f"{library} is not installed: pip install 'glocal[{extra_of()[library]}]'"
        error = error.__cause__ or error.__context__
    return None
