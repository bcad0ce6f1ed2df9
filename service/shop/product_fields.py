"""What the columns of a product may be, for requests and files alike."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from service.shop import money
from service.shop.cart import MAX_QUANTITY
from service.shop.text import IMAGE_URL_FORM, MAX_LENGTH, SKU_FORM, has_host, is_visible

# No control characters or line breaks, and none that reverse the text around them. Scripts and emoji need joiners.
NO_CONTROL = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$"
# The highest stock that staff may enter. The constraint products_stock_bounded allows twice as much.
MAX_STOCK = 1_000_000_000
# urlsplit takes half of the time that the other columns of a file take together.
_PLAIN_HOST = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)*/")


def check_visible(name: str) -> str:
    """The name. Raises ValueError if it shows nothing but punctuation."""
    if not is_visible(name):
        raise ValueError("must have a letter, a digit or a symbol")
    return name


def _image_url(url: object) -> object:
    if isinstance(url, str) and not (re.fullmatch(IMAGE_URL_FORM, url) and (_PLAIN_HOST.match(url) or has_host(url))):
        raise ValueError("must be an https URL with a host, and without spaces")
    return url


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LENGTH, pattern=NO_CONTROL),
    AfterValidator(check_visible),
]
# As in a name, but with tabs and line breaks.
Description = Annotated[
    str,
    StringConstraints(
        max_length=10_000,
        pattern=r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]*$",
    ),
]
Sku = Annotated[str, StringConstraints(pattern=SKU_FORM)]
ImageUrl = Annotated[str, BeforeValidator(_image_url), StringConstraints(max_length=2048, pattern=IMAGE_URL_FORM)]
# Each currency has its own maximum.
Price = Annotated[int, Field(ge=1, le=money.MOST_MINOR)]
MaxPerOrder = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
