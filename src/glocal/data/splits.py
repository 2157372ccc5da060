"""The parts of a data set by their names: training, validation and test, in the spellings that are met."""

import re

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
