"""JSON compared with the types of the installed SDK, which are generated from Stripe's own description of its API."""

import sys
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, ClassVar, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

import stripe
from stripe._list_object import ListObject
from stripe._object_classes import get_object_class
from stripe._stripe_object import StripeObject, UntypedStripeObject

# Members that Stripe sends only when they apply. All others of these classes are always there, null when unset.
SENT_WHEN_SET = {
    "checkout.session": {
        "line_items", "name_collection", "optional_items", "presentment_details", "redirect_on_completion",
        "return_url", "tax_id_collection",
    },
    "payment_intent": {"hooks", "payment_details", "presentment_details"},
    "charge": {"authorization_code", "level3", "presentment_details", "radar_options", "refunds", "transfer"},
    "refund": {
        "description", "failure_balance_transaction", "failure_reason", "instructions_email", "next_action",
        "pending_reason", "presentment_details",
    },
    "dispute": {"intended_submission_method", "payment_method_details"},
    "balance_transaction": set(),
    "event": {"account", "context"},
}  # fmt: skip
# Options of the SDK's calls, which are no parameters.
OPTIONS = {
    "api_key", "stripe_version", "stripe_account", "stripe_context", "max_network_retries", "idempotency_key",
    "content_type", "headers",
}  # fmt: skip


def object_problems(value: dict[str, Any]) -> list[str]:
    """What is wrong with an object that names its class by its member `object`."""
    return list(_problems(value, get_object_class("V1", value["object"]), value["object"]))


def problems(value: Any, annotation: Any) -> list[str]:
    """What is wrong with a value of this type."""
    return list(_problems(value, annotation, ""))


def members_of(cls: type) -> dict[str, Any]:
    """The annotated members of one of the SDK's classes."""
    return {
        name: annotation for name, annotation in cls.__annotations__.items() if get_origin(annotation) is not ClassVar
    }


def _problems(value: Any, annotation: Any, where: str) -> Iterator[str]:
    if annotation is Any:
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        if value not in arguments:
            yield f"{where}: {value!r} is not in the closed list"
    elif origin in (Union, UnionType):
        yield from _union_problems(value, arguments, where)
    elif isinstance(annotation, ForwardRef | TypeVar):
        # A class of another module, which the SDK does not import at run time: the object names it.
        if not isinstance(value, dict) or "object" not in value:
            yield f"{where}: {value!r} is not an object"
        else:
            yield from _problems(value, get_object_class("V1", value["object"]), where)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where}: {value!r} is not a list"
            return
        for position, entry in enumerate(value):
            yield from _problems(entry, arguments[0], f"{where}[{position}]")
    elif (origin or annotation) is UntypedStripeObject:
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is not an object"
            return
        for name, entry in value.items():
            yield from _problems(entry, arguments[0] if arguments else Any, f"{where}.{name}")
    elif isinstance(origin or annotation, type) and issubclass(origin or annotation, StripeObject):
        yield from _member_problems(value, origin or annotation, where)
    elif type(value) is not annotation and not (annotation is float and type(value) is int):
        yield f"{where}: {value!r} is not {annotation.__name__}"


def _union_problems(value: Any, arguments: tuple[Any, ...], where: str) -> Iterator[str]:
    if value is None:
        if NoneType not in arguments:
            yield f"{where}: is null"
        return
    # "A list, and any text besides" is how the SDK writes a list to which Stripe may add: ours is closed.
    closed = [argument for argument in arguments if get_origin(argument) is Literal]
    others = [argument for argument in arguments if argument is not NoneType and not (closed and argument is str)]
    tried = [list(_problems(value, argument, where)) for argument in others]
    if [] not in tried:
        # The alternative that fits best is the one that was meant.
        yield from max(tried, key=lambda found: (isinstance(value, dict) and "object" in value, -len(found)))


def _member_problems(value: Any, cls: type, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is not an object"
        return
    members = members_of(cls)
    # An event's data has an object of that name; other members of that name are its class's.
    whole = None if cls is stripe.Event.Data else SENT_WHEN_SET.get(value.get("object", ""))
    for name, annotation in members.items():
        optional = NoneType in get_args(annotation) and (whole is None or name in whole)
        if name in value:
            yield from _problems(value[name], annotation, f"{where}.{name}")
        elif not optional:
            yield f"{where}.{name}: is missing"
    # A list names its class beside its members.
    named = {"object"} if cls is ListObject else set()
    for name in value.keys() - members.keys() - named:
        yield f"{where}.{name}: is unknown"


def parameters_of(params: type, path: list[str]) -> set[str]:
    """The names of the parameters at `path` inside one of the SDK's types of parameters."""
    for key in path:
        params = _nested(params.__annotations__[key], params)
    return set(params.__annotations__) - OPTIONS


def literals_of(params: type, path: list[str]) -> set[str]:
    """The closed list of the parameter at `path`."""
    for key in path[:-1]:
        params = _nested(params.__annotations__[key], params)
    return set(_literals(params.__annotations__[path[-1]], params))


def _literals(annotation: Any, params: type) -> Iterator[str]:
    annotation = _resolved(annotation, params)
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for argument in get_args(annotation):
            yield from _literals(argument, params)


def _resolved(annotation: Any, params: type) -> Any:
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        names = {**vars(sys.modules[params.__module__]), "StripeContext": stripe.StripeContext}
        return eval(annotation, names)
    return annotation


def _nested(annotation: Any, params: type) -> Any:
    """The type of parameters inside an annotation: required or not, one or a list, or beside others; else None."""
    annotation = _resolved(annotation, params)
    if hasattr(annotation, "__required_keys__"):
        return annotation
    found = (_nested(argument, params) for argument in get_args(annotation))
    return next((nested for nested in found if nested is not None), None)
