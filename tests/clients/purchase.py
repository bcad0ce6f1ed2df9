"""A purchase with the generated Python client; run by test_clients.py with that client on the path.

`python purchase.py API_URL`: fills a cart, checks out, and prints where to pay; waits until the order is fulfilled.
"""

import sys
import time
from uuid import UUID

from shop_client import AuthenticatedClient
from shop_client.api.carts import add_item, check_out, create_cart
from shop_client.api.catalog import create_product, list_products
from shop_client.api.orders import cancel_order, get_order
from shop_client.models import (
    Cart,
    Checkout,
    CheckoutRequest,
    NewItem,
    NewProduct,
    NewProductCurrency,
    Order,
    OrderNotCancellableProblem,
    OrderStatus,
    Product,
    ProductPage,
)


def buy(client: AuthenticatedClient) -> UUID:
    """A paid and fulfilled order of a new product."""
    new = NewProduct(name="Tent", price_minor=1250, currency=NewProductCurrency.EUR, stock=10)
    product = create_product.sync(client=client, body=new, idempotency_key="product")
    assert isinstance(product, Product)
    page = list_products.sync(client=client)
    assert isinstance(page, ProductPage)
    assert [listed.id for listed in page.items] == [product.id]

    cart = create_cart.sync(client=client)
    assert isinstance(cart, Cart)
    item = NewItem(product_id=product.id, quantity=2)
    filled = add_item.sync(cart.id, client=client, body=item)
    assert isinstance(filled, Cart)
    placed = check_out.sync(cart.id, client=client, body=CheckoutRequest(expected_total_minor=filled.total_minor))
    assert isinstance(placed, Checkout)
    print(placed.payment.stripe_session_id, flush=True)

    for _ in range(500):
        order = get_order.sync(placed.order_id, client=client)
        assert isinstance(order, Order)
        if order.status == OrderStatus.FULFILLED:
            return order.id
        time.sleep(0.02)
    raise TimeoutError("the order was not fulfilled")


def main() -> None:
    # The types of this generator want a credential also where none is needed. This is a guest's, and staff's in a demo.
    client = AuthenticatedClient(base_url=sys.argv[1], token="", prefix="")
    order_id = buy(client)
    # An error is a type of its own too.
    refused = cancel_order.sync(order_id, client=client)
    assert isinstance(refused, OrderNotCancellableProblem)
    assert refused.order_status == "FULFILLED"


if __name__ == "__main__":
    main()
