"""Figures as elements of a page."""

import re
from typing import NamedTuple

import markupsafe


class Plate(NamedTuple):
    """A figure on the page.

    Attributes:
      name: file name without its ending.
      caption: how to read it.
      wide: whether it takes the page's whole width.
      svg: the figure's text.
    """

    name: str
    caption: str
    wide: bool
    svg: str


def inline(plate: Plate) -> markupsafe.Markup:
    """The SVG as an element of the page: ids made unique to the figure, the XML prologue left out.

    None of it is mark-up from a user: matplotlib escapes the texts that it draws.
    """
    svg = plate.svg[plate.svg.index("<svg") :]
    prefix = re.sub(r"[^A-Za-z0-9]", "-", plate.name)
    for mark in (' id="', "url(#", 'href="#'):
        svg = svg.replace(mark, f"{mark}{prefix}.")
    label = markupsafe.escape(plate.caption)
    return markupsafe.Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
