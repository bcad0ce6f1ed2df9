"""Rules for names and slugs, in every script; for skus and the addresses of pictures."""

import re
import unicodedata
from urllib.parse import urlsplit

MAX_LENGTH = 200
SKU_FORM = r"^[A-Za-z0-9._-]{1,64}$"
# No control characters, no spaces, none that reverse the text, and none that browsers read as a slash or quote.
IMAGE_URL_FORM = r'^https://[^\u0000-\u0020\u007f-\u00a0\u2000-\u200a\u2028-\u202f\u205f-\u2069\u3000"<>\\`]+$'
# Letters, marks and symbols that show nothing: fillers, joiners of marks, variation selectors, the blank of braille.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def to_nfc(text: object) -> object:
    """The text in the one spelling that slugs have (NFC); other values as they are."""
    return unicodedata.normalize("NFC", text) if isinstance(text, str) else text


def is_visible(name: str) -> bool:
    """Whether a name shows a letter, a digit or a symbol, and so more than punctuation."""
    return any(unicodedata.category(c)[0] in "LNS" for c in _INVISIBLE.sub("", name))


def slug_of(name: str) -> str:
    """`Café & Bar` -> `cafe-bar`, `दाल` -> `दाल`: Latin letters lose their accents, other letters keep their marks.

    Empty for a name without letters and digits. The result is in NFC, and `is_slug` accepts it.
    """
    text = "".join(map(_plain, unicodedata.normalize("NFC", name))).lower()
    kept_marks = False
    slug = ""
    for c in unicodedata.normalize("NFD", _INVISIBLE.sub("", text)):
        match unicodedata.category(c)[0]:
            case "L" | "N":
                latin = c.isascii() or unicodedata.name(c, "").startswith("LATIN ")
                kept_marks = not latin
                # Latin letters alone: casefold() turns ß into ss, but also a Greek final ς into σ.
                slug += c.casefold() if latin else c
            case "M":
                slug += c if kept_marks else ""
            case "C":
                # Joiners shape letters and hyphenate words; words go on behind them.
                pass
            case _:
                kept_marks = False
                slug += "-"
    slug = re.sub("-+", "-", unicodedata.normalize("NFC", slug)).strip("-")
    return slug[:MAX_LENGTH].strip("-")


def is_slug(text: str) -> bool:
    """Whether a text in NFC can be a slug: words of small letters with their marks and digits, and dashes between."""
    return not _INVISIBLE.search(text) and all(
        word
        and unicodedata.category(word[0])[0] in "LN"
        and all(unicodedata.category(c) not in ("Lu", "Lt") and unicodedata.category(c)[0] in "LMN" for c in word)
        for word in text.split("-")
    )


def has_host(url: str) -> bool:
    """Whether a URL of IMAGE_URL_FORM names a host, with a valid port if any, and without a user."""
    try:
        url_parts = urlsplit(url)
        return bool(url_parts.hostname) and url_parts.port != 0 and "@" not in url_parts.netloc
    except ValueError:
        return False


def _plain(c: str) -> str:
    """The letters and digits that a character stands for: ﬁ -> fi, ½ -> 1⁄2. Thai's ำ is no mark and a letter."""
    plain, marks = unicodedata.normalize("NFKD", c), unicodedata.normalize("NFD", c)
    return plain if _count_marks(plain) == _count_marks(marks) else c


def _count_marks(text: str) -> int:
    return sum(unicodedata.category(c)[0] == "M" for c in text)
