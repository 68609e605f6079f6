"""HTML for notebooks: code, sentences, lists and tables. All text is escaped."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from kedit._show.code import shortened

_MOST_ROWS, _MOST_COLUMNS, _LONGEST = 20, 12, 400


def code(text: str) -> str:
    """Return code as HTML."""
    return f"<code>{escape(shortened(text, _LONGEST))}</code>"


def sentence(text: str) -> str:
    """Return a sentence as HTML; what stands between backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def described(said: str, words: str) -> str:
    """Return code with a sentence below it."""
    return f"{code(said)}<br>{sentence(words)}"


def ordered(parts: Sequence[str]) -> str:
    """Return HTML as a numbered list of the first parts."""
    items = [f"<li>{part}</li>" for part in parts[:_MOST_ROWS]]
    return f"<ol>{''.join(items)}</ol>{_rest(len(parts) - _MOST_ROWS)}"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of the first rows and columns.

    Args:
        title: What the table shows; may hold code between backticks.
        header: Name of each column.
        rows: A cell for each column; numbers are rounded.
    """
    head = _row("th", header)
    body = "".join([_row("td", row) for row in rows[:_MOST_ROWS]])
    return (
        f"<table><caption>{sentence(title)}</caption><thead>{head}</thead>"
        f"<tbody>{body}</tbody></table>{_rest(len(rows) - _MOST_ROWS)}"
    )


def number(value: Any) -> str:
    """Return a number, or the numbers of a small array, rounded."""
    numbers = np.ravel(value)
    if numbers.size > 6:
        return f"array of shape {np.shape(value)}"
    said = [f"{n:.4g}" if numbers.dtype.kind in "fc" else str(n) for n in numbers]
    return said[0] if np.ndim(value) == 0 else f"[{', '.join(said)}]"


def _row(tag: str, cells: Sequence[Any]) -> str:
    texts = [cell if isinstance(cell, str) else number(cell) for cell in cells]
    more = len(texts) - _MOST_COLUMNS
    texts = [*texts[:_MOST_COLUMNS], f"… {more} more"] if more > 0 else texts
    return f"<tr>{''.join([f'<{tag}>{escape(text)}</{tag}>' for text in texts])}</tr>"


def _rest(count: int) -> str:
    return f"<p>… {count} more</p>" if count > 0 else ""
