"""Every column that can hold text: whether it may hold personal data. `tests/shop/test_erasure.py` refuses others.

A new column with personal data goes into PERSONAL. The tests then fail until `sql/erasure/erase_columns.sql` erases it
and a migration grants it to `commerce_eraser`. Readers get no right to it.
"""

# Erased with the order, and hidden from `commerce_readonly`.
PERSONAL = {
    "idempotency_keys": "answer",
    # Notes may quote people. An actor may be a customer, by the `sub` of their token.
    "order_events": "actor note",
    # `client`, `client_network` and `email_digest` are hashes of an address. A storefront may write anything into a
    # `reference`.
    "carts": "reference user_id",
    "orders": "client client_network email email_digest reference user_id",
    "order_shipping": "city country line1 line2 name phone postal_code state",
    # What Stripe is told about the customer, and where the order can be paid.
    "payments": "checkout_url session_parameters",
    # What staff wrote, and who.
    "refunds": "actor reason",
    # Of the movements of orders.
    "stock_movements": "actor",
    "stripe_events": "payload",
}

NOT_PERSONAL = {
    # Who made a key: the login of an operator.
    "api_keys": "created_by digest name prefix scopes",
    # What staff did. `before` and `after` have members of categories and products, states and amounts.
    "audit_log": "action actor after before request_id subject",
    "audit_passes": "rule",
    "audit_positions": "rule source",
    # Ids, amounts and states.
    "audit_violations": "detail rule subject",
    "carts": "currency status",
    "categories": "name slug",
    # Ids, amounts and states: `tests/shop/test_outbox.py` compares each payload.
    "event_deliveries": "data result status subject type",
    # Staff's: where systems of the shop receive events, and what for.
    "event_endpoints": "description previous_secrets previous_until secret types url",
    "hold_pressure": "product_ids units_on_hold_ratio",
    # Hashes of the request, for a day; the path of an order.
    # Stripe's words.
    "disputes": "currency reason status stripe_dispute_id stripe_payment_intent_id",
    "idempotency_keys": "id location request_digest",
    # `cause` may contain an id that the client chose for its request. Erasing the order removes that part.
    "order_events": "cause from_status to_status",
    # Hashes of files; what files say of products.
    "imports": "digest skipped unapplied",
    "import_lines": "category currency description image_url name sku",
    "order_items": "name",
    "orders": "currency status",
    "payments": "captured_currency currency status stripe_payment_intent_id stripe_session_id",
    "product_search": "currency language name_key words",
    "products": "currency description image_url name sku",
    "reconcile_positions": "list",
    "refunds": "cause failure_reason status stripe_payment_intent_id stripe_refund_id",
    "search_words": "word",
    # Why staff moved stock of a product, without an order. People must not write customers' names there.
    "stock_movements": "reason",
    "stripe_events": "id outcome type",
    # Ids, amounts and Stripe's words.
    "stuck_items": "id kind reason",
    # Whose tokens are refused: an identifier of the identity provider.
    "token_revocations": "subject",
    "unmatched_payments": "currency stripe_payment_intent_id",
    "worker_heartbeats": "loop",
}
