"""Drawing results on images."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SHARE = 24  # lines of text for which a picture's shorter side has room


def text_size(image: Image.Image) -> tuple[ImageFont.FreeTypeFont, int]:
    """The font for an image, and its size in pixels."""
    size = max(10, min(image.size) // SHARE)
    return ImageFont.load_default(size), size


def write_lines(image: Image.Image, lines: Sequence[tuple]) -> Image.Image:
    """A copy of an RGB image with lines of (text, value, …) in the top left corner, white on dark."""
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn, "RGBA")
    font, size = text_size(image)
    text = "\n".join(f"{line[0]}  {line[1]}" for line in lines)
    pad = size // 3
    left, top, right, bottom = draw.multiline_textbbox((pad, pad), text, font=font)
    draw.rectangle((left - pad, top - pad, right + pad, bottom + pad), fill=(0, 0, 0, 160))
    draw.multiline_text((pad, pad), text, fill="white", font=font)
    return drawn
