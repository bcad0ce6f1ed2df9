-- Orders with their lines, payments, refunds and history.
--
-- depends: 0002.carts
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on carts and products for the foreign keys, briefly
-- undo: drops every order, payment and refund

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE orders (
    id uuid NOT NULL,
    -- The key of the staff's pages, newest first. Customers see only the id.
    number bigint GENERATED ALWAYS AS IDENTITY,
    cart_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'PENDING_PAYMENT',
    total_minor bigint NOT NULL,
    currency text NOT NULL,
    email text,
    -- The hold number: how often stock was taken for this order. A late payment takes it again.
    hold integer NOT NULL DEFAULT 1,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    paid_at timestamptz,
    fulfilled_at timestamptz,
    cancelled_at timestamptz,
    -- When the sweep claims this order next; null when nothing is due.
    next_attempt_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    CONSTRAINT orders_pkey PRIMARY KEY (id),
    CONSTRAINT orders_number_unique UNIQUE (number),
    CONSTRAINT orders_cart_fkey FOREIGN KEY (cart_id) REFERENCES carts (id),
    CONSTRAINT orders_status_known CHECK (status IN ('PENDING_PAYMENT', 'PAID', 'FULFILLED', 'CANCELLED')),
    CONSTRAINT orders_total_range CHECK (total_minor BETWEEN 50 AND 99999999),
    CONSTRAINT orders_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT orders_email_length CHECK (char_length(email) <= 800),
    CONSTRAINT orders_hold_positive CHECK (hold > 0),
    CONSTRAINT orders_times_match_status CHECK (
        CASE status
            WHEN 'PENDING_PAYMENT' THEN paid_at IS NULL AND fulfilled_at IS NULL AND cancelled_at IS NULL
            WHEN 'PAID' THEN paid_at IS NOT NULL AND fulfilled_at IS NULL AND cancelled_at IS NULL
            WHEN 'FULFILLED' THEN paid_at IS NOT NULL AND fulfilled_at IS NOT NULL AND cancelled_at IS NULL
            ELSE cancelled_at IS NOT NULL AND fulfilled_at IS NULL
        END
    )
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX orders_one_live_per_cart ON orders (cart_id) WHERE status <> 'CANCELLED';
CREATE INDEX orders_by_status ON orders (status, number);
CREATE INDEX orders_due ON orders (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

CREATE TABLE order_items (
    order_id uuid NOT NULL,
    product_id bigint NOT NULL,
    name text NOT NULL,
    quantity integer NOT NULL,
    unit_price_minor bigint NOT NULL,
    CONSTRAINT order_items_pkey PRIMARY KEY (order_id, product_id),
    CONSTRAINT order_items_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT order_items_product_fkey FOREIGN KEY (product_id) REFERENCES products (id),
    CONSTRAINT order_items_quantity_range CHECK (quantity BETWEEN 1 AND 9999),
    CONSTRAINT order_items_price_positive CHECK (unit_price_minor > 0)
);

CREATE TABLE payments (
    id uuid NOT NULL,
    order_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'INITIATED',
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    refunded_minor bigint NOT NULL DEFAULT 0,
    -- The Stripe session to create: its number for this order, and its exact parameters. If the answer is lost,
    -- the same request can be sent again with the same idempotency key.
    attempt integer NOT NULL DEFAULT 1,
    session_parameters jsonb NOT NULL,
    session_expires_at timestamptz NOT NULL,
    -- One request at a time creates the session. Its claim ends at this time, even if its process died.
    claimed_until timestamptz,
    stripe_session_id text,
    checkout_url text,
    stripe_payment_intent_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payments_pkey PRIMARY KEY (id),
    CONSTRAINT payments_one_per_order UNIQUE (order_id),
    CONSTRAINT payments_session_once UNIQUE (stripe_session_id),
    CONSTRAINT payments_payment_intent_once UNIQUE (stripe_payment_intent_id),
    CONSTRAINT payments_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT payments_status_known CHECK (
        status IN ('INITIATED', 'PROCESSING', 'SUCCEEDED', 'FAILED', 'EXPIRED', 'REFUND_PENDING', 'REFUNDED')
    ),
    CONSTRAINT payments_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT payments_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT payments_refunded_within_amount CHECK (refunded_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT payments_refunded_whole CHECK (status <> 'REFUNDED' OR refunded_minor = amount_minor),
    CONSTRAINT payments_refunded_only_captured CHECK (
        refunded_minor = 0 OR status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
    ),
    CONSTRAINT payments_captured_has_session CHECK (
        status NOT IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED') OR stripe_session_id IS NOT NULL
    ),
    CONSTRAINT payments_attempt_positive CHECK (attempt > 0)
) WITH (fillfactor = 80);

CREATE TABLE refunds (
    id uuid NOT NULL,
    order_id uuid NOT NULL,
    stripe_payment_intent_id text NOT NULL,
    amount_minor bigint NOT NULL,
    -- late_money: a late payment. staff: requested by staff. stripe: made in Stripe's dashboard.
    cause text NOT NULL,
    restock boolean NOT NULL DEFAULT false,
    status text NOT NULL DEFAULT 'REQUESTED',
    stripe_refund_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    CONSTRAINT refunds_pkey PRIMARY KEY (id),
    CONSTRAINT refunds_stripe_refund_once UNIQUE (stripe_refund_id),
    CONSTRAINT refunds_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT refunds_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT refunds_cause_known CHECK (cause IN ('late_money', 'staff', 'stripe')),
    CONSTRAINT refunds_status_known CHECK (status IN ('REQUESTED', 'PENDING', 'SUCCEEDED', 'FAILED')),
    CONSTRAINT refunds_settled_is_known_to_stripe CHECK (
        status NOT IN ('PENDING', 'SUCCEEDED') OR stripe_refund_id IS NOT NULL
    )
);

CREATE INDEX refunds_by_order ON refunds (order_id);
-- A late payment is refunded once: a second refund is possible only after the first has failed.
CREATE UNIQUE INDEX refunds_late_money_once ON refunds (stripe_payment_intent_id)
WHERE cause = 'late_money' AND status <> 'FAILED';
CREATE INDEX refunds_due ON refunds (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

CREATE TABLE order_events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    order_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    from_status text,
    -- Equal to from_status for a note, for example about a refund.
    to_status text NOT NULL,
    -- The request, Stripe event or job behind it.
    cause text NOT NULL,
    note text,
    CONSTRAINT order_events_pkey PRIMARY KEY (id),
    CONSTRAINT order_events_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT order_events_path_legal CHECK (
        from_status IS NOT DISTINCT FROM to_status
        OR (from_status IS NULL AND to_status = 'PENDING_PAYMENT')
        -- With a null on the left IN is null, which a CHECK accepts.
        OR (from_status IS NOT NULL AND (from_status, to_status) IN (
            ('PENDING_PAYMENT', 'PAID'),
            ('PENDING_PAYMENT', 'CANCELLED'),
            ('PAID', 'FULFILLED'),
            ('PAID', 'CANCELLED'),
            ('CANCELLED', 'PAID')
        ))
    )
);

CREATE INDEX order_events_by_order ON order_events (order_id, id);
