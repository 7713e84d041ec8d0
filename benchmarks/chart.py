"""A chart of bars as SVG, readable on light and on dark."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from benchmarks.figures import Series
from benchmarks.report import number

_WIDTH: Final = 760
_LABELS: Final = 300
_FIGURES: Final = 110
_BAR: Final = 18
_ROW: Final = 24
_TITLE: Final = 34
_COLOURS: Final = ("#2f81f7", "#8957e5", "#d4762c", "#b08800", "#3a9a5c", "#768390")
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#d1d7e0}}"
)


def chart(series: Sequence[Series], titles: Mapping[str, str]) -> str:
    """Return one group of bars for each case, each group on a scale of its own.

    Args:
        series: what to show, in any order.
        titles: of the sides; they give each its colour, by their order.
    """
    cases: dict[tuple[str, str, str], list[Series]] = {}
    for one in series:
        cases.setdefault((one.measure, one.case, one.unit), []).append(one)
    parts: list[str] = []
    top = 0
    for (measure, case, unit), shown in cases.items():
        top += _TITLE
        parts.append(_text(0, top - 10, f"{measure}, {case} ({unit})", "t"))
        longest = max(s.median for s in shown) or 1
        for one in shown:
            parts += _bar(one, top, longest, titles)
            top += _ROW
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8}" '
        f'width="{_WIDTH}" height="{top + 8}" role="img"><style>{_STYLE}</style>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _bar(one: Series, top: int, longest: float, titles: Mapping[str, str]) -> list[str]:
    room = _WIDTH - _LABELS - _FIGURES
    width = max(1, round(one.median / longest * room))
    names = list(titles)
    colour = _COLOURS[names.index(one.side) % len(_COLOURS)] if one.side in names else _COLOURS[-1]
    return [
        _text(0, top + 14, titles.get(one.side, one.side)),
        f'<rect x="{_LABELS}" y="{top}" width="{width}" height="{_BAR}" rx="2" fill="{colour}"/>',
        _text(_LABELS + width + 6, top + 14, number(one.median)),
    ]


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{attribute}>{escape(text)}</text>'
