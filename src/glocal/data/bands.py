"""The bands of rasters that a model takes in the place of red, green and blue."""

from dataclasses import dataclass

from glocal.wording import counted

# The value of pixels that counts as 1, by their type.
WHITE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0, "float32": 1.0}


@dataclass(frozen=True)
class Bands:
    """numbers: of the bands in a file, from 1. pixels: their type, one of WHITE."""

    numbers: tuple[int, ...]
    pixels: str

    def __post_init__(self):
        object.__setattr__(self, "numbers", tuple(self.numbers))

    def __str__(self) -> str:
        return f"{counted(len(self.numbers), 'band')} of the type {self.pixels}"
