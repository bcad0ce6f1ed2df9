"""The events that the shop sends, as the OpenAPI document describes them under `webhooks`."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel

from service.http.fields import Amount, Id
from service.shop.money import Currency
from service.shop.orders import OrderStatus
from service.shop.outbox import EVENT_TYPES

_REF = "#/components/schemas/{model}"


class OrderEventData(BaseModel):
    """An order and its new status."""

    order_id: UUID
    number: Id
    status: OrderStatus
    total_minor: Amount
    currency: Currency


class RefundEventData(BaseModel):
    """A refund of an order that Stripe has decided."""

    order_id: UUID
    refund_id: UUID
    amount_minor: Amount
    currency: Currency
    failure_reason: str | None


class DisputeEventData(BaseModel):
    """A dispute of an order's payment."""

    order_id: UUID
    dispute_id: str
    status: str
    reason: str
    amount_minor: int
    currency: Currency


class ProductEventData(BaseModel):
    """A product and its stock."""

    product_id: Id
    stock: int


# By the first word of a type.
DATA: dict[str, type[BaseModel]] = {
    "order": OrderEventData,
    "refund": RefundEventData,
    "dispute": DisputeEventData,
    "product": ProductEventData,
}


def webhooks(texts: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The document's `webhooks`; the schemas of their payloads are added to `schemas`."""
    for model in DATA.values():
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return {event_type: {"post": _webhook(event_type, texts, schemas)} for event_type in EVENT_TYPES}


def _webhook(event_type: str, texts: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    subject, words = event_type.partition(".")[0], event_type.replace(".", "_").split("_")
    name = f"{''.join(word.capitalize() for word in words)}Event"
    text = texts["events"][event_type]
    example = {"type": event_type, "timestamp": "2026-05-06T10:00:00Z", "data": text["data"]}
    schemas[name] = {
        "type": "object",
        "title": name,
        "description": text["description"],
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"type": "string", "const": event_type, "description": "What happened."},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": {"$ref": _REF.format(model=DATA[subject].__name__), "description": "More about it."},
        },
    }
    return {
        "operationId": f"on_{'_'.join(words)}",
        "tags": ["events"],
        "summary": " ".join(words).capitalize(),
        "description": text["description"],
        "security": [],
        "parameters": [
            {"name": header, "in": "header", "required": True, "description": meaning, "schema": {"type": "string"}}
            for header, meaning in texts["headers"].items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF.format(model=name)}, "example": example}},
        },
        "responses": {"2XX": {"description": texts["answer"]}},
    }
