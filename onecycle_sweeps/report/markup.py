"""The few pieces of HTML that a page is made of; all text that comes from elsewhere goes through `text`."""

import html
from collections.abc import Iterable, Sequence


def text(value: object) -> str:
    """Any value as text that HTML takes literally, also within an attribute's quotes."""
    return html.escape(str(value))


def paragraph(content: str, kind: str = "") -> str:
    return f"<p{_kind(kind)}>{content}</p>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Terms and what they are, of which those without anything to say are left out."""
    rows = "".join(f"<div><dt>{text(term)}</dt><dd>{content}</dd></div>" for term, content in pairs if content)
    return f"<dl>{rows}</dl>"


def listed(items: Iterable[str], kind: str = "") -> str:
    return f"<ul{_kind(kind)}>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table within a container of its own, which scrolls where the page is narrow; the first column has the names."""
    head = "".join(f'<th scope="col">{header}</th>' for header in headers)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    content = f"<table{_kind(kind)}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{content}</div>'


def figure(panels: Iterable[str], caption: str, kind: str = "") -> str:
    """Panels side by side where there is room, and what they show in words."""
    content = "".join(f'<div class="panel">{panel}</div>' for panel in panels)
    side_by_side = f"<div{_kind(f'panels {kind}'.strip())}>{content}</div>"
    return f"<figure>{side_by_side}<figcaption>{caption}</figcaption></figure>"


def command(words: str) -> str:
    """A line to copy: one click selects it."""
    return f'<pre class="command"><code>{text(words)}</code></pre>'


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
