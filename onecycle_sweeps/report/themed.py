"""An SVG of matplotlib's made part of a page: colours by the page's variables, fonts of the page, ids of its own."""

import re
from xml.etree import ElementTree

from onecycle_sweeps.report import canvas

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# What the figures are drawn with, and the variable that a page gives each in light and in dark.
VARIABLES = {colour.lower(): f"--c{i}" for i, colour in enumerate(canvas.COLOURS[:-1])} | {
    "#000000": "--ink",
    canvas.GREY.lower(): "--others",
    canvas.GRID.lower(): "--grid",
    canvas.MUTED.lower(): "--muted",
    canvas.PAPER.lower(): "--paper",
}
COLOUR = re.compile(r"#[0-9a-f]{6}\b")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
FONT = re.compile(r"font: (?:(\d+|bold) )?([\d.]+px) [^;]*")
DIGITS = re.compile(r"(\d\.\d\d)\d+")


def themed(svg: str, name: str, words: str) -> str:
    """The figure as an inline `<svg>`; `name` sets its ids apart from those of the page's other figures.

    `words` say what it shows to those who cannot see it. Raises KeyError for a colour that no variable stands for.
    """
    root = ElementTree.fromstring(svg)
    for child in [child for child in root if child.tag == f"{SVG}metadata"]:
        root.remove(child)
    for defs in root.findall(f"{SVG}defs"):
        for style in defs.findall(f"{SVG}style"):
            defs.remove(style)
    used = {match for element in root.iter() for value in element.attrib.values() for match in _references(value)}
    for element in root.iter():
        _adapt(element, name, used)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": words, "class": "drawn"})
    return ElementTree.tostring(root, encoding="unicode")


def variable(colour: str) -> str:
    """The CSS value that stands for one of the figures' colours."""
    return f"var({VARIABLES[colour.lower()]})"


def _references(value: str) -> list[str]:
    return [value[1:]] if value.startswith("#") else REFERENCE.findall(value)


def _adapt(element: ElementTree.Element, name: str, used: set[str]) -> None:
    element.tag = element.tag.removeprefix(SVG)
    element.tail = None
    if element.text is not None and not element.text.strip():
        element.text = None
    attributes = {key.replace(XLINK, ""): value for key, value in element.attrib.items()}
    if attributes.get("id") not in used:
        attributes.pop("id", None)
    for key, value in attributes.items():
        if key == "id":
            attributes[key] = f"{name}-{value}"
        elif key == "href":
            attributes[key] = f"#{name}-{value[1:]}"
        elif key == "d":
            attributes[key] = DIGITS.sub(r"\1", " ".join(value.split()))
        elif key == "style":
            attributes[key] = _style(value)
        else:
            attributes[key] = REFERENCE.sub(rf"url(#{name}-\1)", value)
    element.attrib.clear()
    element.attrib.update(attributes)


def _style(value: str) -> str:
    value = FONT.sub(lambda found: f"font-size: {found[2]}" + (f"; font-weight: {found[1]}" if found[1] else ""), value)
    return COLOUR.sub(lambda found: variable(found[0]), value)
