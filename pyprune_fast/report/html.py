"""A report as one HTML file that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from .cards import cards
from .contents import Picture, Report
from .plots import FIGURES
from .sections import sections


def as_html(report: Report) -> str:
    """The page.

    Args:
        report: what `collect` gave, or `Report.from_json`.

    Returns:
        HTML; the same for the same report, with the same versions of jinja2 and matplotlib.

    Raises:
        ImportError: jinja2 or matplotlib is missing; `pip install pyprune-fast[report]` brings them.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pyprune_fast", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    parts = sections(report)
    figures = {part.name: list(FIGURES[part.name](report)) for part in parts if part.name in FIGURES}
    return environment.get_template("report.html.j2").render(
        report=report, cards=cards(report), sections=parts, figures=figures, photo=_photo, picture=_picture, matrix=_matrix
    )


def _photo(picture: Picture) -> str:
    """A data URI of an image, in grey or colour."""
    return _png(np.broadcast_to(_pixels(picture), (picture.height, picture.width, 3)))


def _picture(picture: Picture) -> str:
    """A data URI of a map, in colours that tell its values."""
    return _png(_coloured(_pixels(picture)[..., 0] / 255))


def _pixels(picture: Picture) -> Any:
    pixels = np.frombuffer(base64.b64decode(picture.pixels), np.uint8)
    return pixels.reshape(picture.height, picture.width, picture.channels)


def _matrix(counts: tuple[tuple[int, ...], ...]) -> str:
    """A data URI of a matrix of counts, in logarithms."""
    values = np.log1p(np.array(counts, dtype=np.float64))
    return _png(_coloured(values / (values.max() or 1.0)))


def _coloured(values: Any) -> Any:
    """Cividis: even steps for every reader, colour-blind or not."""
    from matplotlib import colormaps

    return (colormaps["cividis"](values)[..., :3] * 255).round().astype(np.uint8)


def _png(image: Any) -> str:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(image), format="png", metadata={"Software": ""})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
