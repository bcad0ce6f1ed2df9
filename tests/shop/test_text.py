"""Slugs, for every kind of character."""

import random
import unicodedata

from service.shop.text import is_slug, slug_of

# Without surrogates, and without the planes of ideographs and private use.
CHARACTERS = [chr(number) for number in (*range(0xD800), *range(0xF900, 0x20000), *range(0xE0000, 0xE0200))]


def test_a_generated_slug_is_a_slug_and_stays_the_same() -> None:
    draw = random.Random(1)
    mixed = ["".join(draw.choices(CHARACTERS[:0x3000], k=8)) for _ in range(5000)]
    for name in [*CHARACTERS, *mixed, *(f"क{c}" for c in CHARACTERS[0x300:0x3000])]:
        slug = slug_of(name)
        assert not slug or is_slug(slug), name
        assert slug_of(slug) == slug == unicodedata.normalize("NFC", slug), name


def test_letters_keep_their_marks_unless_they_are_latin() -> None:
    for c in CHARACTERS:
        if unicodedata.category(c)[0] == "M" and unicodedata.combining(c) and not unicodedata.decomposition(c):
            kept = c != "\u034f"  # The invisible joiner of marks.
            assert slug_of(f"ლ{c}") == "ლ" + c * kept, c
            assert slug_of(f"X{c}") == "x", c
