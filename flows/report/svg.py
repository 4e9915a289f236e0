"""A matplotlib figure as SVG that belongs to its page: its colours and letters are the page's, in light and in dark.

What is drawn in one of `COLOURS` gets a class for it (`fill-seen`, `stroke-line`), which the page's style sheet paints.
Styles become attributes, because the page's policy takes none that it does not know.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What stands for a colour while matplotlib draws. Near to black, so that no two are one after its rounding.
INK, SOFT, LINE, SEEN, NOVEL = "#000001", "#000002", "#000003", "#000004", "#000005"
COLOURS = {INK: "ink", SOFT: "soft", LINE: "line", SEEN: "seen", NOVEL: "novel"}

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_UNUSED = {f"{_SVG}{name}" for name in ("metadata", "style", "clipPath")}


def inline_svg(figure: Figure, says: str) -> Markup:
    """Return the figure as an SVG element.

    Args:
        figure: drawn in `COLOURS`; its patches (backgrounds) are left out.
        says: what it shows, for those who do not see it.
    """
    import matplotlib

    buffer = io.BytesIO()
    # Marks are named by their form and the salt: what two drawings call alike is alike.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _simplify(root)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": says}
    ElementTree.register_namespace("", _SVG.strip("{}"))
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # written by ElementTree, which escapes


def _simplify(element: ElementTree.Element, *, named: bool = False) -> None:
    """Drop what only matplotlib needs, and turn styles into classes and attributes. `named`: its id is referred to."""
    for child in list(element):
        if child.tag in _UNUSED:
            element.remove(child)
        else:
            _simplify(child, named=element.tag == f"{_SVG}defs")
    for name in ("clip-path", *(() if named else ("id",))):
        element.attrib.pop(name, None)
    if _LINK in element.attrib:
        element.set("href", element.attrib.pop(_LINK))  # the prefix would be another one, which HTML does not know
    classes: list[str] = []
    for name, value in _declarations(element.attrib.pop("style", "")):
        if name in ("fill", "stroke") and value in COLOURS:
            classes.append(f"{name}-{COLOURS[value]}")
        elif not name.startswith("font") or name == "font-size":
            element.set(name, value)
    if classes:
        element.set("class", " ".join(classes))


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a style; of `font`, which has no attribute, its size."""
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        name, _, value = declaration.partition(":")
        if name == "font":
            yield "font-size", next(word for word in value.split() if word.endswith("px"))
        else:
            yield name.strip(), value.strip()
