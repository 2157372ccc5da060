"""The errors that a user should read: the command prints each as one line. Every other error is a bug in the library.

`UserError`: the user's request is wrong. `WorkError`: the request is right, but the work failed. Each error is also of
the built-in type that a caller would catch: an `InvalidValueError` is a ValueError.
"""


class UserError(Exception):
    """The request is wrong: an argument, a file or the data. Raise one of the subclasses.

    exit_code: the command's exit code.
    """

    exit_code = 2


class InvalidValueError(UserError, ValueError):
    """A value that is not allowed, or a file whose content cannot be used."""


class InvalidTypeError(UserError, TypeError):
    """A value of a wrong type, or an argument that does not exist."""


class MissingExtraError(UserError, ImportError):
    """A package is not installed; the message names the extra that installs it."""


class PathError(UserError, OSError):
    """A file or folder that cannot be read or written."""


class MissingPathError(PathError, FileNotFoundError):
    """A file or folder that does not exist."""


class ExistingPathError(PathError, FileExistsError):
    """A file or folder that already exists and must not be replaced, or that another process uses."""


class NotAFolderError(PathError, NotADirectoryError):
    """A file where a folder is needed."""


class NotAFileError(PathError, IsADirectoryError):
    """A folder where a file is needed."""


class ForbiddenPathError(PathError, PermissionError):
    """A file or folder that the user has no permission for."""


class WorkError(RuntimeError):
    """The work failed although the request was right.

    exit_code: the command's exit code.
    """

    exit_code = 1


OF_SYSTEM = {
    FileNotFoundError: MissingPathError,
    FileExistsError: ExistingPathError,
    NotADirectoryError: NotAFolderError,
    IsADirectoryError: NotAFileError,
    PermissionError: ForbiddenPathError,
}


def path_error(error: OSError, message: str) -> PathError:
    """A `PathError` with this message, also of the type of the system's error."""
    return OF_SYSTEM.get(type(error), PathError)(message)
