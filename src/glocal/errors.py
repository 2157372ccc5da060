"""The errors that a user should read: the command prints each as one line. Every other error is a bug in the library.

`UserError` is for what the user asked wrongly, `WorkError` for work that failed although it was asked rightly. Each
error is also of the built-in type that a caller would catch: an `InvalidValueError` is a ValueError.
"""


class UserError(Exception):
    """What the user asked cannot be done: an argument, a file or the data is wrong. Raise one of the subclasses.

    exit_code: of the command.
    """

    exit_code = 2


class InvalidValueError(UserError, ValueError):
    """A value that is not allowed, or the content of a file that cannot be used."""


class InvalidTypeError(UserError, TypeError):
    """A value of a wrong type, or an argument that does not exist."""


class MissingExtraError(UserError, ImportError):
    """A package that is not installed; the message names the extra that brings it."""


class PathError(UserError, OSError):
    """A file or folder that cannot be read or written."""


class MissingPathError(PathError, FileNotFoundError):
    """A file or folder that does not exist."""


class ExistingPathError(PathError, FileExistsError):
    """A file or folder that exists already and may not be replaced, or that another process uses."""


class NotAFolderError(PathError, NotADirectoryError):
    """A file in the place of a folder."""


class NotAFileError(PathError, IsADirectoryError):
    """A folder in the place of a file."""


class ForbiddenPathError(PathError, PermissionError):
    """A file or folder that the user has no permission for."""


class WorkError(RuntimeError):
    """Work that failed although it was asked rightly.

    exit_code: of the command.
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
    """The `PathError` with this message that is also of the type of the system's error."""
    return OF_SYSTEM.get(type(error), PathError)(message)
