"""What images and their content are called: each so that the other is found by it."""

from __future__ import annotations

from typing import Final

from protocol.messages import ImageFormat
from storage.names import MAX_NAME

_RAW: Final = "-raw"


def name_of_content(name: str, kind: ImageFormat) -> str:
    """Return what the content of an image is called: never as the image, nor as one is.

    Some tools go by the ending of a name. Where the content is raw it must not meet the image.
    """
    cut = name.removesuffix(f".{kind}")
    return cut if cut not in (name, "") else f"{name[: MAX_NAME - len(_RAW)]}{_RAW}"


def name_of_image(name: str, kind: ImageFormat) -> str:
    """Return what an image is called that is made for content of this name.

    Content of that name goes back to it: `name_of_content` takes off what is added here.
    """
    ending = f".{kind}"
    return name if name.endswith(ending) else f"{name[: MAX_NAME - len(ending)]}{ending}"


def format_in(name: str) -> ImageFormat | None:
    """Return the format that the ending of a name is, None where it is none."""
    return next((kind for kind in ImageFormat if name.endswith(f".{kind}")), None)
