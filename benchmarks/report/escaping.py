"""Names that came from data, safe to show: of classes, models, files, devices. A writer escapes for its own format."""

from __future__ import annotations

import html
import re
import unicodedata

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$#&])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
}


def plain(text: str) -> str:
    """Without what cannot be seen and steers: control, bidirectional and other format characters become `\\u202e`."""
    return "".join(c if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" else _code(c) for c in text)


def _code(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def markdown(text: str) -> str:
    """For a line or a table's cell; a name of letters, digits and single underscores stays as it is."""
    text = plain(text)
    # An underscore within a word is no emphasis.
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", _MARKDOWN.sub(r"\\\1", text))


def latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in plain(text))


def in_html(text: str) -> str:
    """For text and for attributes in quotes."""
    return html.escape(plain(text), quote=True)
