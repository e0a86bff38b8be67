"""Colour, marker and line style of each method, by its name. A new method may get a line in `NAMED`.

Colours are those of Okabe and Ito (2008), distinguishable with any common colour vision; markers and line styles
distinguish methods in grey. A hashed method keeps hue and line style for all B; lightness and marker show B.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_hex, to_rgb

INK, GREY, FAINT, PAPER = "#1a1a1a", "#6b6b6b", "#c8c8c8", "#ffffff"
BLUE, ORANGE, GREEN, VERMILLION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, OLIVE = "#cc79a7", "#56b4e9", "#8a7f00"  # olive for their yellow, which vanishes on white
WIDTH_IN, DPI = 6.4, 200

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # text stays text in print
    "svg.fonttype": "none",
    "svg.hashsalt": "machbench",  # the same picture gives the same bytes
}


@dataclass(frozen=True)
class Style:
    color: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]


_DASHES = (0, (5.0, 2.0))
_DOTS = (0, (1.2, 1.6))
_MIXED = (0, (6.0, 1.6, 1.2, 1.6))
_LONG = (0, (9.0, 3.0))
NAMED = {
    "mach": Style(BLUE, "o", "-"),
    "full_softmax": Style(VERMILLION, "s", _DASHES),
    "one_vs_all": Style(ORANGE, "v", _LONG),
    "sampled_softmax": Style(GREEN, "D", _MIXED),
    "sampled_softmax_tf_2019": Style(GREEN, "d", _DOTS),
    "adaptive_softmax": Style(PURPLE, "^", _DASHES),
    "bottleneck": Style(SKY, "P", _LONG),
    "label_frequency": Style(GREY, "x", _DOTS),
    "nearest_neighbours": Style(INK, "*", _MIXED),
    "omikuji_parabel": Style(OLIVE, "<", _DASHES),
    "omikuji_bonsai": Style(OLIVE, ">", _MIXED),
    "napkinxc_plt": Style(INK, "p", _LONG),
    "pecos_xrlinear": Style(PURPLE, "h", _DOTS),
}
OTHERS = (
    Style(ORANGE, "X", "-"),
    Style(SKY, "8", _DOTS),
    Style(PURPLE, "H", "-"),
    Style(OLIVE, "P", "-"),
    Style(VERMILLION, "^", _MIXED),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """The style of each method. A method that is not in `NAMED` gets a free style, chosen by its name."""
    found: dict[str, Style] = {}
    used: set[int] = set()
    for name in sorted(set(methods)):
        if name in NAMED:
            found[name] = NAMED[name]
            continue
        first = zlib.crc32(name.encode()) % len(OTHERS)
        slots = [(first + i) % len(OTHERS) for i in range(len(OTHERS))]
        slot = next((s for s in slots if s not in used), first)
        used.add(slot)
        found[name] = OTHERS[slot]
    return found


def for_bucket_count(style: Style, rank: int, of: int) -> Style:
    """The method's style for its ``rank``-th smallest B of ``of``: light to dark, each its own marker."""
    depth = 0.5 if of == 1 else rank / (of - 1)
    color = _mix(style.color, 1.0, 0.45 - 0.9 * depth) if depth < 0.5 else _mix(style.color, 0.0, depth - 0.5)
    return Style(color, MARKERS[rank % len(MARKERS)], style.line)


def for_text(color: str) -> str:
    """The colour, darkened until its contrast with white is at least 4.5 (WCAG 2 AA)."""
    while 1.05 / (_luminance(color) + 0.05) < 4.5:
        color = _mix(color, 0.0, 0.1)
    return color


def _mix(color: str, target: float, amount: float) -> str:
    """``color`` moved by ``amount`` (0 to 1) towards the grey level ``target``."""
    red, green, blue = (c + (target - c) * amount for c in to_rgb(color))
    return to_hex((red, green, blue))


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
