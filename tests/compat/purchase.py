"""Buy something from a service that runs with the Stripe stand-in; with the standard library alone."""

import json
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

FULFILLED_SECONDS = 30
JSON = {"Content-Type": "application/json"}


def buy(api: str, staff: Mapping[str, str], customer: Mapping[str, str] = {}) -> str:
    """Create a product, check a cart out, pay on the stand-in's page, and wait until the order is fulfilled; its id.

    `staff` and `customer` are their headers.
    """
    fields = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 3}
    product = post(f"{api}/products", fields, staff)
    cart = post(f"{api}/carts", headers=customer)
    post(f"{api}/carts/{cart['id']}/items", {"product_id": product["id"], "quantity": 2}, customer)
    checkout = post(f"{api}/carts/{cart['id']}/checkout", headers=customer)
    pay(checkout["checkout_url"])
    await_fulfilled(f"{api}/orders/{checkout['order_id']}", customer)
    assert get(f"{api}/products/{product['id']}")["stock"] == 1
    return str(checkout["order_id"])


def pay(page: str) -> None:
    """Press "Pay" on the stand-in's payment page."""
    form = urlencode({"action": "pay", "email": "jo@example.com"})
    status, body = call("POST", page, form, {"Content-Type": "application/x-www-form-urlencoded"})
    assert status == 303, (status, body)


def await_fulfilled(order_url: str, headers: Mapping[str, str]) -> None:
    deadline = time.monotonic() + FULFILLED_SECONDS
    while (order := get(order_url, headers))["status"] != "FULFILLED":
        assert time.monotonic() < deadline, order
        time.sleep(0.1)
    assert order["payment"]["status"] == "SUCCEEDED", order


def post(url: str, body: Any = None, headers: Mapping[str, str] = {}) -> Any:
    content = {} if body is None else JSON
    status, text = call("POST", url, None if body is None else json.dumps(body), {**content, **headers})
    assert status in (200, 201), (url, status, text)
    return json.loads(text)


def get(url: str, headers: Mapping[str, str] = {}) -> Any:
    status, text = call("GET", url, headers=headers)
    assert status == 200, (url, status, text)
    return json.loads(text)


def call(method: str, url: str, body: str | None = None, headers: Mapping[str, str] = {}) -> tuple[int, str]:
    """The status and the body of a response; does not follow redirects."""
    address = urlsplit(url)
    connection = HTTPConnection(address.netloc, timeout=30)
    try:
        connection.request(method, address.path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
