"""A figure as inline SVG: no name twice on the page, small, readable on a dark page too."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_COLOUR = re.compile(r"#([0-9a-f]{6})\b")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"font-family:[^;]*;?\s*")  # the page has one for all figures
_ROUNDED = ("d", "points", "x", "y", "width", "height")
_PIXELS_A_POINT = 4 / 3
_LEAST_CONTRAST = 4.5


@dataclass(frozen=True)
class Picture:
    """A figure for the page.

    Parameters
    ----------
    key : str
        Its id on the page.
    title : str
        Its accessible name.
    svg : str
        One ``<svg>`` element that refers to nothing outside itself.
    width : int
        Natural width in CSS pixels.
    colours : frozenset of str
        Six hexadecimal digits each; the page gives every one a value for dark screens.
    """

    key: str
    title: str
    svg: str
    width: int
    colours: frozenset[str]


def picture(text: str, *, key: str, title: str) -> Picture:
    """The SVG file ``text``, as matplotlib writes it, made fit to stand in a page.

    Parameters
    ----------
    text : str
    key : str
        Put before every id inside, so that pictures do not take each other's parts.
    title : str
    """
    root = ET.fromstring(text)
    _without_namespaces(root)
    for child in list(root):
        if child.tag == "metadata" or (child.tag == "defs" and child.find("style") is not None):
            root.remove(child)
    used = set(_references(root))
    colours: set[str] = set()
    for element in root.iter():
        _rewrite(element, key, used, colours)
    left, top, width, height = (float(v) for v in root.attrib["viewBox"].split())
    root.attrib = {
        "viewBox": f"{left:g} {top:g} {width:g} {height:g}",
        "role": "img",
        "aria-label": title,
    }
    body = ET.tostring(root, encoding="unicode", short_empty_elements=False)
    return Picture(key, title, body, round(width * _PIXELS_A_POINT), frozenset(colours))


def _without_namespaces(root: ET.Element) -> None:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: v for name, v in element.attrib.items()}
        for part in ("text", "tail"):
            if (getattr(element, part) or "").isspace():
                setattr(element, part, None)


def _references(root: ET.Element) -> Iterable[str]:
    for element in root.iter():
        if element.get("href", "").startswith("#"):
            yield element.attrib["href"][1:]
        for value in element.attrib.values():
            yield from _REFERENCE.findall(value)


def _rewrite(element: ET.Element, key: str, used: set[str], colours: set[str]) -> None:
    """Ids with the key before them, colours as variables, coordinates to a hundredth."""
    for name, value in list(element.attrib.items()):
        if name == "id":
            if value in used:
                value = f"{key}-{value}"
            else:
                del element.attrib["id"]
                continue
        elif name == "href" and value.startswith("#"):
            value = f"#{key}-{value[1:]}"
        elif name == "style":
            value = _FONT.sub("", value)
        elif name in _ROUNDED:
            value = _NUMBER.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)
            value = " ".join(value.split())
        value = _REFERENCE.sub(lambda m: f"url(#{key}-{m[1]})", value)
        colours.update(_COLOUR.findall(value))
        element.attrib[name] = _COLOUR.sub(r"var(--c\1,#\1)", value)


def dark_colours(colours: Iterable[str], paper: str) -> dict[str, str]:
    """Of every colour of the figures, the one that replaces it on a dark ``paper``.

    Greys are turned round, white to the paper; others are mixed with white until their contrast
    with the paper is that of readable text. Six hexadecimal digits each.
    """
    return {colour: _dark(colour, paper) for colour in sorted(set(colours))}


def _dark(colour: str, paper: str) -> str:
    rgb, ground = _parts(colour), _parts(paper)
    if len(set(rgb)) == 1:
        share = rgb[0] / 255  # 0 becomes light, 1 the paper itself
        light = (236, 236, 240)
        return _hex(
            [round(b * share + a * (1 - share)) for a, b in zip(light, ground, strict=True)]
        )
    for step in range(20):
        mixed = [round(v + (255 - v) * step / 20) for v in rgb]
        if _contrast(mixed, ground) >= _LEAST_CONTRAST:
            break
    return _hex(mixed)


def _parts(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (0, 2, 4)]


def _hex(rgb: Iterable[int]) -> str:
    return "".join(f"{value:02x}" for value in rgb)


def _contrast(one: Iterable[int], other: Iterable[int]) -> float:
    """Contrast ratio of WCAG 2.2, 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(rgb: Iterable[int]) -> float:
    linear = [
        v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in map(float, rgb)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
