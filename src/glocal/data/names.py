"""Names of the parts of a data set, in the spellings that are met, and of its classes."""

import re
import unicodedata

from glocal.errors import InvalidValueError

WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
_SPLITS = {word: split for split, words in WORDS.items() for word in words}
_FILLERS = re.compile(r"[\W_]+|(data)?set$|data$|images$|\d{4}$")  # as in training_set, Train-Data, val2017


def split_of(name: str) -> str | None:
    """ "train", "val" or "test" where a name says that, as Train, training_set, VALID, dev or test-data do."""
    word = name.casefold()
    while (shorter := _FILLERS.sub("", word)) != word:
        word = shorter
    return _SPLITS.get(word)


def class_name(name: str) -> str:
    """The name of a class in Unicode's NFC: as a Mac writes it, é is two characters. ValueError for no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidValueError(f"the name {name!r} is not UTF-8") from None
    return unicodedata.normalize("NFC", name)
