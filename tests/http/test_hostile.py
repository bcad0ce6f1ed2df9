"""Hostile input against every call that it fits: refused with a problem that repeats nothing, and nothing changes.

The tables below are the corpus. Of a repeated member the last counts, as in Python and in browsers. All other input
that two readers could understand differently is refused.
"""

import asyncio
import base64
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import product as product_of
from typing import Any
from urllib.parse import parse_qs

import asyncpg
import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.webhooks import signature
from service.http.server.heads import HEAD_LIMIT
from tests.client import ADMIN_TOKEN, Shop, is_problem, is_problem_document
from tests.conftest import WEBHOOK_SECRET, served
from tests.database import checksum_tables

# A word in every input that can contain it; no answer may contain it.
CANARY = "c4nary"
TOO_LONG = 201 * "x"
JSON = {"Content-Type": "application/json"}

# Every call with a body, and a valid body for it.
BODIES: dict[str, dict[str, Any]] = {
    "POST /categories": {"name": "Camping"},
    "PATCH /categories/{category}": {"name": "Camping"},
    "POST /products": {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10},
    "PATCH /products/{product}": {"name": "Tent"},
    "PUT /products/by-sku/{sku}": {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10},
    "POST /products/{product}/stock": {"delta": 1, "reason": "delivery"},
    "POST /auth/revocations": {"sub": "anna"},
    "POST /carts": {},
    "POST /carts/{cart}/items": {"product_id": 1, "quantity": 1},
    "PUT /carts/{cart}/items/{product}": {"quantity": 1},
    "POST /carts/{cart}/checkout": {},
    "POST /orders/{order}/cancel": {},
    "POST /orders/{order}/refund": {},
    "POST /stuck/{kind}/{id}/resolve": {"reason": "paid back by bank transfer"},
    "POST /event-endpoints": {"url": "https://example.com", "types": ["order.paid"]},
    "PATCH /event-endpoints/{endpoint}": {"active": True},
    "POST /event-endpoints/{endpoint}/rotate": {},
    "POST /event-endpoints/{endpoint}/deliveries/{delivery}/resend": {},
}

# Calls for users alone: tests/http/test_ownership.py sends them what is wrong.
FOR_USERS = {f"POST /{what}/{{{what[:-1]}}}/claim" for what in ("carts", "orders")}

# Bodies that are not JSON in UTF-8.
MALFORMED = [
    b"{",
    b"}",
    b"x",
    b"{'name': 1}",
    b'{"name": "c4nary}',
    b'{"name" "c4nary"}',
    b'{"name": "c4nary",}',
    b'{"name": "c4nary"} {}',
    b'{"name": "c4nary"}\x00',
    b'\x00{"name": "c4nary"}',
    b'{name: "c4nary"}',
    b'{"name": "c4nary" /* a comment */}',
    b'{"name": c4nary}',
    b'{"name": undefined}',
    b'{"name": True}',
    b'{"name": "\xff"}',
    b'{"name": "\xc0\xaf"}',
    b'{"name": "\xe0\x80\xaf"}',
    b'{"name": "\xed\xa0\x80"}',
    b'{"name": "\xf4\x90\x80\x80"}',
    b'{"name": "\xf0\x9f\x98"}',
    b'{"name": "caf\xe9"}',
    b'{"name": "\\ud800"}',
    b'{"name": "\\udfff c4nary"}',
    b'{"name": "\\ud800\\ud800"}',
    b'{"name": "\\u12"}',
    b'{"name": "\\x41"}',
    b'{"name": "a\nb"}',
    b'{"name": "a\x00b"}',
    b'{"\\ud800": 1}',
    b'\xef\xbb\xbf{"name": "c4nary"}',
    '{"name": "c4nary"}'.encode("utf-16"),
    '{"name": "c4nary"}'.encode("utf-16-le"),
    '{"name": "c4nary"}'.encode("utf-16-be"),
    '{"name": "c4nary"}'.encode("utf-32"),
    '{"name": "c4nary"}'.encode("utf-32-be"),
    '{"name": "c4nary"}'.encode("utf-7").replace(b"{", b"+AHs-"),
    gzip.compress(b'{"name": "c4nary"}'),
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b'{"name": ' + b"[" * 250 + b"]" * 250 + b"}",
    b"<name>c4nary</name>",
    b"name=c4nary",
    b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nc4nary\r\n--b--',
]
# Numbers that are not JSON, in the place of any member.
NO_NUMBERS = [*"NaN Infinity -Infinity +1 01 0x10 .5 1. 1e --1 1_000 １".split(), "1" + 5000 * "0"]
# JSON that no call accepts.
REFUSED = [
    b"[]",
    b"[{}]",
    b"null",
    b"true",
    b"0",
    b"1e400",
    b'"c4nary"',
    b'{"c4nary": 1}',
    b'{"c4nary": 1e400}',
    b'{"c4nary": "c4nary", "c4nary": "c4nary"}',
    b'{"": 1}',
    b'{"__class__": {}}',
    b'{"__proto__": {"active": true}}',
    b'{"\\u0000": 1}',
    b'{"$where": "sleep(1)"}',
    b"{" + b",".join(b'"c4nary%d": 1' % number for number in range(3000)) + b"}",
]
# Invalid values, by the type of the member.
INTEGERS = [
    *"-1 -2147483649 -9223372036854775808 -9223372036854775809 9223372036854775808 18446744073709551616".split(),
    *"1.5 0.1 1e-9 1e400 -1e400 1.7976931348623157e309 9007199254740993.5".split(),
    *'true false "1" "c4nary" "" [] [1] {}'.split(),
    *("1" + 400 * "0", '{"$gt": 0}'),
]
STRINGS = [
    *('""', '" "', '"\\u0000"', '"c4nary\\u0000"', f'"{TOO_LONG}"', f'"{20_000 * "x"}"'),
    *('"c4nary\\r\\nSet-Cookie: a=b"', '"\\u001b[31mc4nary"', '"\\u202ec4nary"', '"\\u200b"'),
    *'0 1 -1.5 1e400 true false [] ["c4nary"] {} {"$ne":""}'.split(),
]
BOOLEANS = '0 1 "true" "c4nary" "" [] {} 1e400'.split()
NO_NULL = ["null"]
IDS = [*INTEGERS, "0"]
# Integers that a column of fewer bits, or a float, could not hold.
LARGE = ["2147483648", "9007199254740993"]
LARGEST = "9223372036854775807"
DESCRIPTIONS = [
    text for text in STRINGS if text not in ('""', '" "', '"\\u200b"', f'"{TOO_LONG}"') and "Set-Cookie" not in text
]
SKUS = [text for text in STRINGS if text != '"c4nary"'] + [f'"{65 * "x"}"', '"a b"', '"a/b"', '"ä"', '"A1\\n"', '"Ａ"']
IMAGE_URLS = [*STRINGS, f'"https://example.com/{2029 * "x"}"', '"https://example.com/a b.png"'] + [
    f'"{url}"'
    for url in r"""
    http://example.com/a.png //example.com/a.png javascript:alert(1) https:example.com https:// https:///a.png https://?a
    https://:443/a.png https://user@example.com/ https://example.com:x/ https://example.com:65536/ https://example.com:0/
    https://[::1/ https://example.com/\u0000 https://example.com/\n https://example.com/\u00a0
    https://example.com\\@c4nary.example/ https://example.com/\u202egnp.exe https://example.com/\"a
    """.split()
]
# Invalid values by member. A large number is either invalid, or names something that does not exist.
WRONG: dict[str, dict[str, list[str]]] = {
    "POST /categories": {"name": STRINGS + NO_NULL, "slug": [*STRINGS, '"A"', '"a b"', '"a--b"', '"-"', '"../a"']},
    "PATCH /categories/{category}": {"name": STRINGS + NO_NULL, "slug": STRINGS + NO_NULL},
    "POST /products": {
        "name": STRINGS + NO_NULL,
        "description": DESCRIPTIONS + NO_NULL,
        "category_id": [*IDS, *LARGE, LARGEST],
        "price_minor": [*IDS, *LARGE, "100000000", "null"],
        "currency": [*STRINGS, *'"EU" "eur" "XXX" "ISK" "EURO" "EUR\\n" "ＥＵＲ" 978 null'.split()],
        "stock": [*INTEGERS, *LARGE, "1000000001", "null"],
        "active": BOOLEANS + NO_NULL,
        "sku": SKUS,
        "image_url": IMAGE_URLS,
        "max_per_order": [*IDS, *LARGE, "10000"],
    },
    "PATCH /products/{product}": {
        "name": STRINGS + NO_NULL,
        "description": DESCRIPTIONS + NO_NULL,
        "category_id": [*IDS, *LARGE, LARGEST],
        "price_minor": [*IDS, *LARGE, "100000000", "null"],
        "active": BOOLEANS + NO_NULL,
        "sku": SKUS,
        "image_url": IMAGE_URLS,
        "max_per_order": [*IDS, *LARGE, "10000"],
        # Not writable here.
        "stock": ["1"],
        "currency": ['"EUR"'],
    },
    "PUT /products/by-sku/{sku}": {
        "name": STRINGS + NO_NULL,
        "description": DESCRIPTIONS + NO_NULL,
        "category_id": [*IDS, *LARGE, LARGEST],
        "price_minor": [*IDS, *LARGE, "100000000", "null"],
        "currency": [*STRINGS, *'"EU" "eur" "XXX" "ISK" 978 null'.split()],
        "stock": [*INTEGERS, *LARGE, "1000000001", "null"],
        "active": BOOLEANS + NO_NULL,
        "image_url": IMAGE_URLS,
        "max_per_order": [*IDS, *LARGE, "10000"],
        # The path has it.
        "sku": ['"T-1"'],
    },
    "POST /products/{product}/stock": {
        # Nine of ten units are free.
        "delta": [*INTEGERS[1:], *LARGE, *"0 -10 1000000001 -1000000001 -2147483648 null".split()],
        "reason": STRINGS + NO_NULL,
    },
    "POST /carts": {"reference": [text for text in STRINGS if text not in (f'"{TOO_LONG}"', '"c4nary"')]},
    "POST /carts/{cart}/items": {
        "product_id": [*IDS, *LARGE, LARGEST, "null"],
        "quantity": [*IDS, *LARGE, "10000", "null"],
    },
    "PUT /carts/{cart}/items/{product}": {"quantity": [*IDS, *LARGE, "10000", "null"]},
    "POST /carts/{cart}/checkout": {"expected_total_minor": [*INTEGERS, *LARGE, LARGEST]},
    # A pending order has nothing to refund, so valid requests are refused for that reason.
    "POST /orders/{order}/refund": {
        "amount_minor": [*IDS, *LARGE, LARGEST],
        "restock": BOOLEANS + NO_NULL,
        "items": [
            # What is wrong inside: tests/shop/test_refunds.py.
            *("[]", "{}", "null", "1", '"x"'),
            '[{"product_id": 1, "quantity": 1}, {"product_id": 1, "quantity": 2}]',
            '[{"product_id": 1, "quantity": 1, "c4nary": 1}]',
        ],
    },
    "POST /stuck/{kind}/{id}/resolve": {
        "reason": [t for t in STRINGS if t not in (f'"{TOO_LONG}"', '"\\u200b"')] + NO_NULL
    },
}
for call in ("POST /event-endpoints", "PATCH /event-endpoints/{endpoint}"):
    WRONG[call] = {
        "url": [*STRINGS, *'"c4nary" "http://example.com" "https://" "//example.com" "https://a\\u0020b" null'.split()],
        "types": [*STRINGS, *'["order.paid","order.paid"] ["order.c4nary"] [["order.paid"]] [null] null'.split()],
        "description": [*(text for text in DESCRIPTIONS if text != "{}"), f'"{501 * "x"}"', *NO_NULL],
    }
WRONG["PATCH /event-endpoints/{endpoint}"]["active"] = BOOLEANS + NO_NULL
# Texts with a special meaning to other programs; here they are names.
WORDS = [
    "'; DROP TABLE products; --",
    "\\'; SELECT pg_sleep(10); --",
    "$1 %s %n {0} {{7*7}} ${jndi:ldap://x}",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "e\u0301 ﬀ İ ß",
    "👩‍👩‍👧‍👦",
    "\ufeffname",
    200 * "😀",
]
TYPES = [
    *"text/plain application/x-www-form-urlencoded application/jsonp text/json application/xml json".split(),
    *"application/json+xml */* application/ ; application/c4nary application/json-seq".split(),
    *("", "multipart/form-data; boundary=b"),
]

# Impossible ids, as they are written in a path.
NO_INTEGERS = [
    *"0 -1 x 1.0 01 +1 1e3 0x1 1_0 %20 1%20 %201 %00 1%00 %ff %c3%a9 c4nary %EF%BC%91 %D9%A1 %ED%A0%80 %C0%B1".split(),
    *"9223372036854775808 18446744073709551617 1%0a 1;v=2 1%27 NaN null %25 %2531 1%2f ..%2f1 %2e%2e 1%3f %5c".split(),
    *("*", "~", "%7B1%7D", 400 * "9"),
]
A_UUID = "00000000-0000-4000-8000-000000000000"
NO_UUIDS = [
    *f"0 x %00 %ff c4nary {A_UUID[:-1]} {A_UUID}0 %7B{A_UUID}%7D urn:uuid:{A_UUID}".split(),
    *(A_UUID, f"{A_UUID}%0a", f"%20{A_UUID}"),
    *(A_UUID.replace(*change) for change in (("-", ""), ("0", "g"), ("0", "%D9%A0"), ("-", "%2d%2d"))),
]
# Unknown addresses. `*` belongs to OPTIONS.
PATHS = [
    *"/c4nary /products/ //products //products/ /./products/ /../products/ /%2e%2e/products /products%2f1".split(),
    *"/products%00 /%70roducts/c4nary /PRODUCTS /products/1/c4nary /products/1/stock/ /carts/ /redoc /docs/".split(),
    *"/docs/static/ /docs/static/c4nary /docs/static/..%2f..%2f__init__.py /docs/static/../../__init__.py".split(),
    *"/docs/static/%2e%2e/__init__.py /docs/static//etc/passwd /docs/static/%2fetc%2fpasswd /docs/static/%00".split(),
    *"/docs/static/..%5c..%5c__init__.py /problems/c4nary /problems/%3Cscript%3E /problems/..%2fmetrics".split(),
    *"/.env /.git/config /% /%zz /%c3%a9 /%ff /;c4nary /? /metrics/ /health /openapi.json/ /webhooks".split(),
    *("/webhooks/stripe/", "/docs/static/" + 300 * "a/", "/docs/static/" + 5000 * "a", "/" + 8000 * "a"),
]
NO_LIMITS = [*"x -1 1.5 1e2 +1 1_0 1%00 %ff %EF%BC%91 9223372036854775808 1%20 c4nary".split(), "", 400 * "9"]
QUERIES = [
    *(f"/products?limit={limit}" for limit in [*NO_LIMITS, "0", "101"]),
    *(f"/products?after_id={after}" for after in NO_LIMITS),
    *(f"/products?active={active}" for active in ["", *"1 True c4nary all%00 true,false".split()]),
    *(f"/products?stock_at_most={units}" for units in [*NO_LIMITS, "-1", "1000000001"]),
    *(f"/products/1/stock?limit={limit}" for limit in [*NO_LIMITS, "0", "101"]),
    *(f"/products/1/stock?after_id={after}" for after in [*NO_LIMITS, "0"]),
    *(f"/categories?limit={limit}" for limit in [*NO_LIMITS, "0", "1001"]),
    *(f"/categories?after_id={after}" for after in NO_LIMITS),
    *(f"/orders?limit={limit}" for limit in [*NO_LIMITS, "0", "101"]),
    *(f"/orders?after_id={after}" for after in [*NO_LIMITS, "0"]),
    *(f"/orders?status={status}" for status in ["", *"c4nary paid PAID%00 PAID,CANCELLED %ff".split()]),
    *(f"/search?limit={limit}" for limit in [*NO_LIMITS, "0", "101"]),
    *(
        f"/search?{name}={text}"
        for name in ("sort", "currency", "available")
        for text in ["", "c4nary", "%00", "EUR,USD"]
    ),
    *(f"/search?{side}_price_minor={text}&currency=EUR" for side in ("min", "max") for text in [*NO_LIMITS, "-1"]),
    *(
        f"/search?after={text}"
        for text in ["", "c4nary", "W10=", "WyJuZXdlc3QiLGZhbHNlLDAsIiIsMWUzXQ", "%ff", 3000 * "x"]
    ),
    *(f"/search?q={text}" for text in ["c4nary%00", TOO_LONG, "+".join(f"c4nary{n}" for n in range(21))]),
    *(f"/search?{query}" for query in ("sort=price", "sort=-price", "min_price_minor=1", "max_price_minor=1")),
    *(f"/orders?payment_status={status}" for status in ["", *"c4nary succeeded SUCCEEDED%00".split()]),
    *(f"/orders?q={text}" for text in ["", "%20", "%00", "a%0ab", "%e2%80%ae", 801 * "x"]),
    *(f"/audit?limit={limit}" for limit in [*NO_LIMITS, "0", "101"]),
    *(f"/audit?after_id={after}" for after in [*NO_LIMITS, "0"]),
    *(f"/audit?{name}={text}" for name in ("actor", "subject") for text in ["", "c4nary%00", 301 * "x"]),
    *(f"/stuck?limit={limit}" for limit in [*NO_LIMITS, "0", "101"]),
    *(f"/stuck?after_id={after}" for after in NO_LIMITS),
    *(f"/event-endpoints?limit={limit}" for limit in [*NO_LIMITS, "0", "101"]),
    *(f"/event-endpoints?after_id={after}" for after in NO_LIMITS),
    *(f"/stuck?kind={kind}" for kind in ["", *"c4nary REFUND_OPEN refund_open%00 %ff".split()]),
    *("/products?category=a%00", "/products?category=" + TOO_LONG, "/products?limit=1&limit=c4nary"),
]
# Categories that do not exist.
NOWHERE = ["", "%ff", "%ED%A0%80", "c4nary", "%27%20OR%201=1", "%25", "%5c", "a&category=c4nary"]
# Names that no call knows.
UNKNOWN = ["%", "%zz=%zz", "&&&=&", "limit[]=c4nary", "limit=1&c4nary=1", "LIMIT=1", 5000 * "a&"]

NO_KEYS = [b"", b" ", b"\t", b"a\tb", 256 * b"k", 30_000 * b"k", b"\xe9", "clé".encode(), b"\xff\xfe", b"c4nary\xa0"]
FORGED = [
    *"c4nary t t= v1= t=,v1= t={t} v1={v1} t={t},v1= t={t},v1=c4nary t={t},v0={v1} t={t},v1={other}".split(),
    *"t={t},v1={v1}0 t=0{t},v1={v1}0 t={t}.0,v1={v1} t=-1,v1={v1} t=0,v1={v1} t=NaN,v1={v1} t=1e999,v1={v1}".split(),
    *"t={ancient} t={future} t={ancient},t={t} T={t},V1={v1} t={t};v1={v1} t:{t},v1:{v1} ,,, =,=,=".split(),
    *("", "t={t},v1=é{v1}", "t=²,v1={v1}", "t={t}" + 1000 * ",v1=00", 30_000 * "v"),
    *(f"t={number * '9'},v1={{v1}}" for number in (20, 400, 5000)),
]
EVENT = {"id": "evt_1", "type": "c4nary", "data": {"object": {}}}
# Bodies with a valid signature that are not events.
NO_EVENTS: list[bytes] = [
    *(b"", b" ", b"{", b"[]", b"null", b"1", b'"evt_1"', b"{}", b"[" * 100_000, b'\xef\xbb\xbf{"id": "evt_1"}'),
    *(orjson.dumps({**EVENT, "id": value}) for value in (None, 1, True, "", [], ["evt_1"], {}, 256 * "e", "e\0")),
    *(orjson.dumps({**EVENT, "type": value}) for value in (None, 1, True, "", [], {"$ne": 1}, 256 * "e", "e\0")),
    *(orjson.dumps({**EVENT, "data": value}) for value in (None, 1, "", [], {}, {"object": None}, {"object": []})),
    orjson.dumps({**EVENT, "data": {"object": {"name": "\0"}}}),
    orjson.dumps({**EVENT, "data": {"object": {"\0": "name"}}}),
    json.dumps({**EVENT, "data": {"object": {"name": "\ud800"}}}).encode(),
    orjson.dumps(EVENT).replace(b"{}", b'{"amount": NaN}'),
    orjson.dumps(EVENT).replace(b"{}", b'{"name": "\xff"}'),
    orjson.dumps(EVENT).decode().encode("utf-16"),
    orjson.dumps(EVENT) + b"{}",
]
# Members of a session with invalid or unusual values.
SESSION = {
    "id": "cs_1",
    "status": "complete",
    "payment_status": "paid",
    "amount_total": 1250,
    "currency": "eur",
    "payment_intent": "pi_1",
    "metadata": {"order_id": A_UUID},
}
SESSIONS: list[dict[str, Any]] = [
    *({"id": value} for value in (None, 1, "", [], 5000 * "x")),
    *({"status": value} for value in (None, 1, "c4nary", [])),
    *({"payment_status": value, "status": "open"} for value in (None, True, "c4nary", {})),
    *({"amount_total": value} for value in (None, "1250", 1250.0, True, -1, 0, 2**53, 2**63, 2**64 - 1, 1e300, [])),
    *({"currency": value} for value in (None, 1, "", "XXX", 5000 * "x", [])),
    *({"payment_intent": value} for value in (None, 1, "", {}, 5000 * "x")),
    *({"customer_details": value} for value in (1, "c4nary", [], {"email": 1}, {"email": {}}, {"email": 5000 * "x"})),
    *(
        {"metadata": value}
        for value in (None, 1, "c4nary", [], {"order_id": 1}, {"order_id": []}, {"order_id": "c4nary"})
    ),
    *({"url": value} for value in (1, [], 5000 * "x")),
]

# Bytes that are not a valid request, or one that is not answered. Each has a connection of its own.
RAW = [
    b"c4nary\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03c4nary\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /products\r\n\r\n",
    b"GET /products HTTP/9.9\r\n\r\n",
    b"GET /products HTTP/1.1 c4nary\r\n\r\n",
    b"GET  /products  HTTP/1.1\r\n\r\n",
    b"get /products HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"C4NARY /products HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET products HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET /c4nary c4nary HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET http://c4nary:x/ HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"CONNECT c4nary:443 HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"CONNECT / HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nc4nary\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\n: c4nary\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost : shop\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHo st: shop\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nX\xe9: c4nary\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nX: c4\x00nary\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nX: a\r\n c4nary\r\n\r\n",
    b"GET /c4nary HTTP/1.1\rHost: shop\r\r",
    b"GET /c4nary HTTP/1.1\nHost: shop\n\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: c4nary\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: -1\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: +0\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: 0x1\r\n\r\n0",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: 1, 2\r\n\r\n00",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n00",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: 18446744073709551615\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: c4nary\r\n\r\n{}",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\nc4nary\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    b"GET /" + (HEAD_LIMIT + 1) * b"a" + b" HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET /" + 1_000_000 * b"a",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nX: " + HEAD_LIMIT * b"a" + b"\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nX: " + 1_000_000 * b"a",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\n" + 5000 * b"X: c4nary\r\n" + b"\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\n\r\nc4nary\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    b"GET /c4nary HTTP/1.1\r\nHost: shop\r\nExpect: c4nary\r\n\r\n",
    b"TRACE /c4nary HTTP/1.1\r\nHost: shop\r\nMax-Forwards: 0\r\n\r\n",
    b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{",
]

# Replies that Stripe never sends, unless something between Stripe and us is broken: (status, body).
REPLIES: list[tuple[int, bytes]] = [
    *(
        (200, body)
        for body in (b"", b" ", b"null", b"[]", b"1", b'"c4nary"', b"{}", b"{", b"<html>c4nary</html>", b"\xff")
    ),
    *((200, body) for body in (b"[" * 100_000, b'{"id": NaN}', '{"id": "cs_1"}'.encode("utf-16"))),
    *(
        (200, json.dumps({**SESSION, "status": "open", "id": value}).encode())
        for value in (None, 1, [], "cs\0", "cs\ud800")
    ),
    *((200, json.dumps({**SESSION, "status": value}).encode()) for value in (None, 1, {})),
    *((200, json.dumps({**SESSION, "status": "open", "url": value}).encode()) for value in ("u\0", "u\udfff")),
    (200, json.dumps({**SESSION, "metadata": {"order_id": A_UUID[::-1]}}).encode()),
    *(
        (status, b"<html>c4nary</html>")
        for status in (201, 204, 302, 400, 401, 403, 404, 409, 418, 429, 500, 502, 503, 599)
    ),
    *((400, body) for body in (b"", b"null", b"[]", b'{"error": null}', b'{"error": "c4nary"}', b'{"error": []}')),
    (500, b'{"error": {"message": 1, "type": [], "param": {}}}'),
]


def inputs() -> Iterator[object]:
    """All that is sent, each once."""
    members = {value for wrong in WRONG.values() for values in wrong.values() for value in values}
    seen: set[object] = set()
    for table in (
        MALFORMED,
        NO_NUMBERS,
        REFUSED,
        members,
        WORDS,
        TYPES,
        NO_INTEGERS,
        NO_UUIDS,
        PATHS,
        QUERIES,
        NOWHERE,
    ):
        seen |= {str(value) for value in table}
    for table in (UNKNOWN, NO_KEYS, FORGED, NO_EVENTS, SESSIONS, RAW, REPLIES):
        seen |= {str(value) for value in table}
    yield from seen


def test_the_corpus_has_its_size() -> None:
    assert len(list(inputs())) >= 150


async def test_a_call_without_a_body_waits_for_the_end_of_one(shop: Shop) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Tents"})
    delete = f"DELETE /categories/{category['id']} HTTP/1.1\r\nHost: localhost\r\n".encode()
    for body in (b"Transfer-Encoding: chunked\r\n\r\n1\r\n{c4nary", b"Content-Length: 9\r\n\r\n{}"):
        answer = await over_the_wire(shop, delete + body)
        assert answer is None or refused(answer, 400)
    assert await shop.call("GET", "/categories", 200) == {"items": [category], "next_cursor": None}
    whole = await over_the_wire(shop, delete + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}", end=False)
    assert whole is not None
    assert whole.status == 204


@dataclass
class Answer:
    """One that came over a connection of its own."""

    status: int
    headers: dict[str, str]
    body: bytes


async def over_the_wire(shop: Shop, sent: bytes, *, end: bool = True) -> Answer | None:
    """What comes back for these bytes; None where the connection is closed without an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(shop.url.rpartition(":")[2]))
    with contextlib.suppress(ConnectionError):
        writer.write(sent)
        if end:
            writer.write_eof()
    try:
        with contextlib.suppress(ConnectionError):
            head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
            if not head:
                return None
            line, *headers = head.decode("latin-1").split("\r\n")
            fields = dict(header.lower().split(": ", 1) for header in headers)
            return Answer(int(line.split()[1]), fields, body)
        return None
    finally:
        writer.close()


async def ask(shop: Shop, method: str, target: str, body: bytes = b"", *headers: bytes) -> Answer:
    """A request as it stands here, with nothing made prettier by a client."""
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: localhost", b"Connection: close", *headers]
    if body:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    answer = await over_the_wire(shop, b"\r\n".join([*lines, b"", body]), end=False)
    assert answer is not None
    return answer


def refused(answer: Answer, *statuses: int) -> bool:
    """Whether it is a problem with one of these statuses that repeats nothing, and says nothing of the server."""
    return (
        answer.status in statuses
        and is_problem_document(answer.status, answer.headers, answer.body)
        and CANARY.encode() not in answer.body
        and "server" not in answer.headers
        and b"uvicorn" not in answer.body
    )


@pytest.fixture
async def ids(shop: Shop) -> dict[str, str]:
    """One of everything."""
    category = await shop.call("POST", "/categories", 201, {"name": "One"})
    tent = await shop.create_product(category_id=category["id"])
    receiver = {"url": "https://example.com", "types": ["order.placed"]}
    endpoint = await shop.call("POST", "/event-endpoints", 201, receiver)
    placed = await shop.checked_out_cart((tent["id"], 1))
    return {
        "category": category["id"],
        "product": tent["id"],
        "cart": await shop.create_cart((tent["id"], 1)),
        "order": placed["order_id"],
        "kind": "refund_failed",
        "id": "re_1",
        "endpoint": endpoint["id"],
        "delivery": (await shop.call("GET", f"/event-endpoints/{endpoint['id']}/deliveries", 200))["items"][0]["id"],
        "sku": "T-1",
    }


@pytest.mark.parametrize("call", BODIES)
async def test_a_bad_body_changes_nothing(
    shop: Shop, ids: dict[str, str], database: asyncpg.Connection, call: str
) -> None:
    method, path = call.format(**ids).split()
    before = await checksum_tables(database)

    async def send(body: bytes | AsyncIterator[bytes], **headers: str) -> Any:
        answer = await shop.http.request(method, path, content=body, headers={**JSON, **headers})
        assert CANARY not in answer.text, body
        return answer

    for body in MALFORMED:
        assert is_problem(await send(body), 400, "malformed"), body[:40]
    for body in REFUSED:
        assert is_problem(await send(body), 422, "invalid"), body[:40]
    for member, values in WRONG.get(call, {}).items():
        rest = "".join(
            f", {json.dumps(name)}: {json.dumps(value)}" for name, value in BODIES[call].items() if name != member
        )

        def of(value: str, member: str = member, rest: str = rest) -> bytes:
            return f'{{"{member}": {value}{rest}}}'.encode()

        for value in NO_NUMBERS:
            assert is_problem(await send(of(value)), 400, "malformed"), (member, value)
        for value in values:
            answer = await send(of(value))
            if answer.status_code == 422:
                assert is_problem(answer, 422, "invalid"), (member, value[:40])
                assert [error["pointer"].split("/")[1:2] for error in answer.json()["errors"]] in ([[member]], [[]])
            else:
                # A valid number: it names something that does not exist, or too many units.
                assert value.lstrip("-").isdecimal(), (member, value[:40], answer.text)
                code = answer.json()["code"]
                assert code in ("not_found", "price_changed", "insufficient_stock", "order_not_refundable"), (
                    member,
                    value,
                )
                assert is_problem(answer, answer.status_code, code)
    good = json.dumps(BODIES[call]).encode()
    for kind in TYPES:
        assert is_problem(await send(good, **{"Content-Type": kind}), 415, "unsupported_media_type"), kind
    over = good.ljust(64 * 1024 + 1)
    assert is_problem(await send(over), 413, "body_too_large")
    assert is_problem(await send(10 * over), 413, "body_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for first in range(0, len(over), 10_000):
            yield over[first : first + 10_000]

    assert is_problem(await send(chunks()), 413, "body_too_large")
    # Announced, but never sent.
    for size in (64 * 1024 + 1, 2**31, 2**53, 2**63, 10**19):
        announced = await ask(shop, method, path, b"", b"Content-Length: %d" % size)
        assert refused(announced, 413, 400), size
    for key in NO_KEYS if method == "POST" else []:
        answer_to_key = await ask(shop, method, path, good, b"Idempotency-Key: " + key)
        assert refused(answer_to_key, 422), key
    if method == "POST":
        assert refused(await ask(shop, method, path, good, b"Idempotency-Key: a", b"Idempotency-Key: a"), 422)
    assert await checksum_tables(database) == before


async def test_names_with_special_meaning_elsewhere_are_stored_unchanged(shop: Shop) -> None:
    for word in WORDS:
        made = await shop.create_product(name=word, description=word)
        assert (made["name"], made["description"]) == (word.strip(), word)
        assert await shop.call("GET", f"/products/{made['id']}", 200) == made


async def test_the_last_of_a_repeated_member_counts(shop: Shop) -> None:
    answer = await shop.http.post("/categories", content=b'{"name": 1, "name": "One"}', headers=JSON)
    assert (answer.status_code, answer.json()["name"]) == (201, "One")
    answer = await shop.http.post("/categories", content=b'{"name": "Two", "name": 2}', headers=JSON)
    assert is_problem(answer, 422, "invalid")


async def test_every_call_with_a_body_has_one_here(shop: Shop) -> None:
    document = (await shop.http.get("/openapi.json")).json()
    calls = {
        f"{method.upper()} {path.replace('_id}', '}')}"
        for path, methods in document["paths"].items()
        for method, call in methods.items()
        if "requestBody" in call
    }
    assert calls - {"POST /webhooks/stripe", *FOR_USERS} == set(BODIES), "BODIES has a body for each"


async def test_an_impossible_id_is_not_found(shop: Shop, ids: dict[str, str], database: asyncpg.Connection) -> None:
    before = await checksum_tables(database)
    document = (await shop.http.get("/openapi.json")).json()
    calls = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods if "{" in path]
    # A sku that a product cannot have is a wrong value of a new product, 422.
    calls.remove(("PUT", "/products/by-sku/{sku}"))
    assert len(calls) > 15
    bodies = {call.replace("}", "_id}"): body for call, body in BODIES.items()}
    for method, path in calls:
        body = json.dumps(bodies.get(f"{method} {path}", {})).encode() if method in ("POST", "PUT", "PATCH") else b""
        for parameter in [part for part in path.split("/") if part.startswith("{")]:
            wrong = NO_INTEGERS if parameter in ("{product_id}", "{category_id}", "{code}") else NO_UUIDS
            for value in wrong:
                filled = path.replace(parameter, value)
                for name, known in ids.items():
                    filled = filled.replace(f"{{{name}_id}}", str(known))
                answer = await ask(shop, method, filled, body)
                # With a slash it is another address, which may have other methods.
                expected = (403, 404, 405) if path.endswith("/claim") else (404, 405)
                assert refused(answer, *expected), (method, filled, answer)
    assert await checksum_tables(database) == before


async def test_an_unknown_address_is_not_found(shop: Shop, database: asyncpg.Connection) -> None:
    before = await checksum_tables(database)
    for path in PATHS:
        for method in ("GET", "POST", "DELETE"):
            answer = await ask(shop, method, path)
            assert refused(answer, 404, 405), (method, path, answer)
    assert await checksum_tables(database) == before


async def test_a_bad_query_is_refused(shop: Shop) -> None:
    for query in QUERIES:
        answer = await ask(shop, "GET", query)
        assert refused(answer, 422), query
        pointers = [error["pointer"] for error in json.loads(answer.body)["errors"]]
        assert pointers == ["/" + query.split("?")[1].split("=")[0]]
    for slug in NOWHERE:
        assert refused(await ask(shop, "GET", f"/products?category={slug}"), 404), slug
    assert (await ask(shop, "GET", "/products?")).status == 200
    product = await shop.create_product()
    paths = ("/products", "/categories", "/orders", f"/products/{product['id']}", f"/carts/{await shop.create_cart()}")
    for path, query in product_of(paths, UNKNOWN):
        answer = await ask(shop, "GET", f"{path}?{query}")
        assert refused(answer, 422), (path, query)
        assert {error["pointer"] for error in json.loads(answer.body)["errors"]} == {""}, (path, query)
    assert refused(await ask(shop, "POST", "/carts?c4nary=1"), 422)
    # Pages, health and documentation ignore them.
    for path in ("/payments/success", "/payments/cancel", "/health/live", "/health/ready", "/docs", "/problems/busy"):
        assert (await ask(shop, "GET", f"{path}?c4nary=1")).status == 200, path
    assert refused(await ask(shop, "GET", "/products?" + HEAD_LIMIT * "a"), 431)


async def test_a_meaningless_condition_never_matches(shop: Shop, ids: dict[str, str]) -> None:
    path = f"/products/{ids['product']}"
    for tag in (b"c4nary", b'"', b'""', b'W/"', b"\xff", b'"1-1-1"', b'"99999999999-1"', b",,,", 5_000 * b'"a",'):
        assert (await ask(shop, "GET", path, b"", b"If-None-Match: " + tag)).status == 200, tag
        assert refused(await ask(shop, "PATCH", path, b'{"name": "x"}', b"If-Match: " + tag), 412), tag


class TestWithAnAdminToken:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"ADMIN_TOKEN": ADMIN_TOKEN}

    async def test_an_invalid_credential_is_refused(self, shop: Shop, database: asyncpg.Connection) -> None:
        before = await checksum_tables(database)
        token = ADMIN_TOKEN.encode()
        for given in (
            *(
                b"",
                b"Bearer",
                b"Bearer ",
                b"Bearer c4nary",
                b"Bearer %b c4nary" % token,
                b"Bearer " + token[:-1],
                b"Basic " + base64.b64encode(token + b":"),
                token,
            ),
            *(
                b"Bearer\t" + token,
                b"Bearer %b,Bearer %b" % (token, token),
                b"Bearer " + token.upper(),
                b"Bearer \xff",
                b"Bearer %b\xa0" % token,
                30_000 * b"B",
            ),
            *(b"Digest username=c4nary", b"Bearer null", b"Bearer ' OR 1=1 --"),
        ):
            assert refused(await ask(shop, "GET", "/orders", b"", b"Authorization: " + given), 401), given
            assert refused(await ask(shop, "POST", "/products", b"{", b"Authorization: " + given), 401), given
        assert await checksum_tables(database) == before


async def test_a_forged_webhook_stores_nothing(shop: Shop, database: asyncpg.Connection) -> None:
    before = await checksum_tables(database)
    body, now = orjson.dumps(EVENT), int(time.time())
    # A valid signature, and signatures of other bodies and times.
    good = signature(body, WEBHOOK_SECRET, now)
    known = {
        "t": str(now),
        "v1": good.partition("v1=")[2],
        "other": signature(body + b" ", WEBHOOK_SECRET, now).partition("v1=")[2],
        "ancient": signature(body, WEBHOOK_SECRET, 1).partition("t=")[2],
        "future": signature(body, WEBHOOK_SECRET, now + 86_400).partition("t=")[2],
    }
    for header in FORGED:
        for name, value in known.items():
            header = header.replace(f"{{{name}}}", value)
        answer = await ask(shop, "POST", "/webhooks/stripe", body, b"Stripe-Signature: " + header.encode())
        assert refused(answer, 400), header
        assert json.loads(answer.body)["code"] == "invalid_signature"
    assert refused(await ask(shop, "POST", "/webhooks/stripe", body), 400)
    assert await checksum_tables(database) == before
    assert (await ask(shop, "POST", "/webhooks/stripe", body, b"Stripe-Signature: " + good.encode())).status == 200


async def signed(shop: Shop, body: bytes) -> Answer:
    header = signature(body, WEBHOOK_SECRET, int(time.time())).encode()
    return await ask(shop, "POST", "/webhooks/stripe", body, b"Stripe-Signature: " + header)


async def test_an_invalid_event_stores_nothing(shop: Shop, database: asyncpg.Connection) -> None:
    before = await checksum_tables(database)
    for body in NO_EVENTS:
        # An empty body has no Content-Length.
        answer = await signed(shop, body)
        assert refused(answer, 400), (body[:80], answer)
        assert json.loads(answer.body)["code"] in ("malformed", "invalid_signature"), body[:80]
    assert await checksum_tables(database) == before


async def test_an_invalid_session_changes_nothing(
    shop: Shop, ids: dict[str, str], database: asyncpg.Connection
) -> None:
    before = await checksum_tables(database)
    for number, changes in enumerate(SESSIONS):
        # It names an existing order, where it may name any.
        session = {**SESSION, "metadata": {"order_id": ids["order"]}, "amount_total": 1251, **changes}
        sent = {**EVENT, "id": f"evt_{number}", "type": "checkout.session.completed", "data": {"object": session}}
        answer = await signed(shop, orjson.dumps(sent))
        assert answer.status == 200, (changes, answer)
        assert CANARY.encode() not in answer.body
    after = await checksum_tables(database)
    assert {table for table in after if after[table] != before[table]} == {"stripe_events"}


async def test_invalid_http_is_refused_or_ends_the_connection(shop: Shop, database: asyncpg.Connection) -> None:
    before = await checksum_tables(database)
    for sent in RAW:
        answer = await over_the_wire(shop, sent)
        assert answer is None or refused(answer, 400, 404, 405, 413, 415, 431), (sent[:80], answer)
    assert (await shop.http.get("/health/live")).status_code == 200
    assert await checksum_tables(database) == before


class BrokenStripe(StripeStandin):
    """A Stripe between which and us something answers in its place, once it has done what it was asked."""

    def __init__(self) -> None:
        super().__init__(webhook_secret=WEBHOOK_SECRET)
        self.reply: tuple[int, bytes] | None = None
        answer = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if self.reply is None or not scope["path"].startswith("/v1/"):
                await answer(scope, receive, send)
                return
            asked = parse_qs((await Request(scope, receive).body()).decode())
            status, body = self.reply
            (order_id,) = asked.get("metadata[order_id]", [A_UUID])
            body = b"" if status == 204 else body.replace(A_UUID.encode(), order_id.encode())
            await Response(body, status, media_type="application/json")(scope, receive, send)

        self.app = app


class TestStripe:
    """Replies that are none."""

    @pytest.fixture
    async def stripe(self) -> AsyncIterator[BrokenStripe]:
        standin = BrokenStripe()
        async with served(standin.app) as url:
            standin.api_base = url  # type: ignore[attr-defined]
            yield standin

    async def test_an_invalid_reply_of_stripe_is_asked_for_again(
        self, shop: Shop, stripe: BrokenStripe, database: asyncpg.Connection
    ) -> None:
        tent = await shop.create_product(stock=len(REPLIES))
        for reply in REPLIES:
            cart = await shop.create_cart((tent["id"], 1))
            stripe.reply = reply
            answer = await shop.http.post(f"/carts/{cart}/checkout")
            assert CANARY not in answer.text
            order = (await shop.call("GET", "/orders?limit=1", 200))["items"][0]
            if answer.status_code == 502:
                # Stripe refused, whatever the body says.
                assert reply[0] in (400, 404)
                assert is_problem(answer, 502, "payment_refused")
                assert order["status"] == "CANCELLED"
            else:
                code = "payment_misconfigured" if reply[0] in (401, 403) else "payment_unavailable"
                assert is_problem(answer, 503, code), (reply, answer.text)
                assert (order["status"], order["payment_status"]) == ("PENDING_PAYMENT", "INITIATED")
                # A cancel does not take the reply for an answer either.
                cancel = await shop.http.post(f"/orders/{order['id']}/cancel")
                assert CANARY not in cancel.text
                assert is_problem(cancel, 503, code), (reply, cancel.text)
            stripe.reply = None
            placed = await shop.http.post(f"/carts/{cart}/checkout")
            assert placed.status_code in (200, 201), (reply, placed.text)
            assert placed.json()["payment"]["stripe_session_id"].startswith("cs_test_")
        assert await shop.get_stock(tent["id"]) == 0
