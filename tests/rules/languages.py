"""What a translation must have in common with the English texts.

Home Assistant drops a translated text whose placeholders differ from the English
ones (helpers/translation.py), and its pages read texts as ICU messages and as
Markdown: what differs there is shown wrong, or not at all.
"""

from collections import Counter
from collections.abc import Iterator
import re
from typing import Any, Final
from unicodedata import east_asian_width

import probatio as vol

from .texts import TEXTS, placeholders

# In ICU messages an apostrophe in front of a brace makes the placeholder plain text,
# and two apostrophes are shown as one. The typographic one (U+2019) is just a letter.
_ICU_APOSTROPHE: Final = re.compile(r"'[{}<>]|''")
_CODE: Final = re.compile(r"`[^`]*`")
_MARKDOWN: Final = {
    "paragraphs": re.compile(r"\n\n"),
    "list items": re.compile(r"^- ", re.MULTILINE),
    "bold texts": re.compile(r"\*\*"),
    "links": re.compile(r"\]\("),
}
# What users type or look for: names of settings, addresses, values of a keep_alive.
_VALUE: Final = re.compile(
    r"[A-Z]+_[A-Z_]+|https?://[!-~]*[\w/]|(?<![\w-])-1(?![0-9])"
    r"|(?<![0-9A-Za-z.])[0-9]+[hms](?:[0-9]+[ms])?(?![0-9A-Za-z])"
    r"|(?<=\()0(?=\))|keep_alive|num_ctx",
    re.ASCII,
)
# English words that no language of Home Assistant shares.
_ENGLISH_WORDS: Final = frozenset(
    {
        *("the", "and", "with", "that", "this", "which", "from", "your"),
        *("does", "because", "cannot"),
    }
)
_LONG: Final = 4
# A longer title of a repair's dialog has a second line on a phone, which covers the
# severity. Letters of Chinese, Japanese and Korean are twice as wide.
MAX_DIALOG_TITLE: Final = 30


def flatten(texts: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each text, however deep it is."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def faults(
    english: dict[str, Any], texts: dict[str, Any], *, is_english: bool = False
) -> list[str]:
    """Return what is wrong with a language file, a line for each fault."""
    try:
        TEXTS(texts)
    except vol.Invalid as err:
        return [f"hassfest refuses it: {err}"]
    expected, found = dict(flatten(english)), dict(flatten(texts))
    lines = [f"{path}: is missing" for path in expected.keys() - found.keys()]
    lines += [f"{path}: is not in en.json" for path in found.keys() - expected.keys()]
    for path in expected.keys() & found.keys():
        lines += [f"{path}: {fault}" for fault in _faults(expected[path], found[path])]
        if not is_english and _is_english(expected[path], found[path]):
            lines.append(f"{path}: is still English")
        if re.search(r"\.fix_flow\.step\.\w+\.title$", path):
            lines += [f"{path}: {fault}" for fault in _title_faults(found[path])]
    return sorted([*lines, *_label_faults(expected, found)])


def _label_faults(english: dict[str, str], texts: dict[str, str]) -> Iterator[str]:
    """Yield the texts that quote a label of a field, but not as it is translated."""
    labels: dict[str, set[str]] = {}
    for path in english.keys() & texts.keys():
        if ".data." in path:
            labels.setdefault(english[path], set()).add(texts[path])
    for path in english.keys() & texts.keys():
        for quoted in re.findall(r'"([^"]+)"', english[path]):
            shown = labels.get(quoted)
            if shown and not any(label in texts[path] for label in shown):
                yield f"{path}: does not name the field {sorted(shown)}"


def _faults(english: str, text: str) -> Iterator[str]:
    """Yield the faults of one text."""
    if not text:
        yield "is empty"
    if (wanted := placeholders(english)) != (found := placeholders(text)):
        yield f"has the placeholders {sorted(found)}, not {sorted(wanted)}"
    if _ICU_APOSTROPHE.search(text):
        yield "has an apostrophe that ICU messages take for a quotation mark"
    for name, pattern in _MARKDOWN.items():
        if len(pattern.findall(english)) != len(pattern.findall(text)):
            yield f"has other {name}"
    if Counter(_CODE.findall(english)) != Counter(_CODE.findall(text)):
        yield "has other code in backticks"
    elif text.count("`") % 2:
        yield "has a backtick that is not closed"
    if missing := set(_VALUE.findall(english)) - set(_VALUE.findall(text)):
        yield f"does not have {sorted(missing)}"


def _is_english(english: str, text: str) -> bool:
    """Return whether a longer text is still English, as a whole or in part."""
    words = re.findall(r"[^\W\d_]+", _CODE.sub("", text).lower())
    if len(re.findall(r"[^\W\d_]+", english)) <= _LONG:
        return False
    return text == english or len(_ENGLISH_WORDS & set(words)) > 1


def _title_faults(title: str) -> Iterator[str]:
    """Yield the faults of the title of a repair's dialog."""
    width = sum(2 if east_asian_width(letter) in "WF" else 1 for letter in title)
    if width > MAX_DIALOG_TITLE:
        yield f"is too wide ({width} > {MAX_DIALOG_TITLE}) for the title of a dialog"
    if "{" in title:
        yield "is the title of a dialog, and has a placeholder of any length"
