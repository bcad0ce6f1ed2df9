# Written by `make stubs` from the headers under sql/: change those.

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar, overload
from uuid import UUID

from service.infra.db import Connection
from service.infra.statements import Statement

Row = TypeVar("Row")

class AccessAddKey(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        name: str,
        prefix: str,
        digest: bytes,
        scopes: Sequence[str],
        days: int,
        created_by: str,
    ) -> int: ...

class AccessFindKey(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, digest: bytes) -> Row | None: ...

class AccessListKeys(Statement[Row]):
    async def all(self, connection: Connection, /) -> list[Row]: ...

class AccessListRevocations(Statement[Row]):
    async def all(self, connection: Connection, /, *, seconds: int) -> list[Row]: ...

class AccessRevokeKey(Statement[None]):
    async def run(self, connection: Connection, /, *, name: str) -> int: ...

class AccessRevokeTokens(Statement[None]):
    async def run(self, connection: Connection, /, *, subject: str) -> int: ...

class AuditCapturedIsPaidAtStripe(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        order_ids: Sequence[UUID],
        session_ids: Sequence[str],
        payment_intents: Sequence[str],
        paid: Sequence[bool],
    ) -> list[Row]: ...

class AuditCartLinesHaveProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, cart_ids: Sequence[UUID]) -> list[Row]: ...

class AuditCartsMatchOrders(Statement[Row]):
    async def all(self, connection: Connection, /, *, cart_ids: Sequence[UUID]) -> list[Row]: ...

class AuditHistoryIsLegal(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class AuditNothingIsOverdue(Statement[Row]):
    async def all(self, connection: Connection, /) -> list[Row]: ...

class AuditOrderLinesAddUp(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class AuditPaymentFitsOrder(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class AuditRefundLinesAddUp(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class AuditStockMatchesLedger(Statement[Row]):
    async def all(self, connection: Connection, /, *, product_ids: Sequence[int]) -> list[Row]: ...

class AuditUnitsAddUp(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class AuditUnmatchedPaymentsAreRefunded(Statement[Row]):
    async def all(self, connection: Connection, /) -> list[Row]: ...

class AuditLogAddEntry(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        actor: str,
        action: str,
        subject: str,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
        request_id: str,
    ) -> int: ...

class AuditLogListEntries(Statement[Row]):
    async def all(self, connection: Connection, /, *, before_id: int, limit: int) -> list[Row]: ...

class AuditLogListEntriesByActor(Statement[Row]):
    async def all(self, connection: Connection, /, *, actor: str, before_id: int, limit: int) -> list[Row]: ...

class AuditLogListEntriesOfSubject(Statement[Row]):
    async def all(self, connection: Connection, /, *, subject: str, before_id: int, limit: int) -> list[Row]: ...

class AuditLogListEntriesOfSubjectByActor(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, subject: str, actor: str, before_id: int, limit: int
    ) -> list[Row]: ...

class AuditStateFoldBalances(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, after_id: int, to_id: int) -> Row | None: ...

class AuditStateListCarts(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: UUID) -> list[Row]: ...

class AuditStateListCartsByEvents(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: int, to_id: int) -> list[Row]: ...

class AuditStateListOrders(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_number: int) -> list[Row]: ...

class AuditStateListOrdersByEvents(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: int, to_id: int) -> list[Row]: ...

class AuditStateListOrdersByMovements(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: int, to_id: int) -> list[Row]: ...

class AuditStateListOrdersByRefunds(Statement[Row]):
    async def all(self, connection: Connection, /, *, after: datetime) -> list[Row]: ...

class AuditStateListProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: int) -> list[Row]: ...

class AuditStateListProductsByMovements(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: int, to_id: int) -> list[Row]: ...

class AuditStateListResults(Statement[Row]):
    async def all(self, connection: Connection, /, *, rules: Sequence[str]) -> list[Row]: ...

class AuditStateListSessions(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_number: int) -> list[Row]: ...

class AuditStateListViolations(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, rule: str, after_subject: str, after_detail: str
    ) -> list[Row]: ...

class AuditStateLockRule(Statement[None]):
    async def run(self, connection: Connection, /, *, rule: str) -> int: ...

class AuditStateMovePosition(Statement[None]):
    async def run(
        self, connection: Connection, /, *, rule: str, source: str, from_position: int, to_position: int
    ) -> int: ...

class AuditStateReadEnds(Statement[Row]):
    async def one(self, connection: Connection, /) -> Row: ...

class AuditStateReadPosition(Statement[Row]):
    async def one(self, connection: Connection, /, *, rule: str, source: str) -> Row: ...

class AuditStateReadTransactions(Statement[Row]):
    async def one(self, connection: Connection, /) -> Row: ...

class AuditStateRecordPass(Statement[None]):
    async def run(self, connection: Connection, /, *, rule: str, changes_at: datetime, is_full: bool) -> int: ...

class AuditStateSetBalances(Statement[None]):
    async def run(
        self, connection: Connection, /, *, product_ids: Sequence[int], units: Sequence[int], position: int
    ) -> int: ...

class AuditStateStoreViolations(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        rule: str,
        checked: Sequence[str] | None,
        subjects: Sequence[str],
        details: Sequence[str],
    ) -> int: ...

class AuditStateSumLedger(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, after_product: int, after_id: int, to_product: int, to_id: int
    ) -> list[Row]: ...

class CartAddLine(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, cart_id: UUID, product_id: int, quantity: int, max_per_order: int
    ) -> Row | None: ...

class CartCheckOwner(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, cart_id: UUID, user_id: str | None) -> Row | None: ...

class CartCreateCart(Statement[None]):
    async def run(
        self, connection: Connection, /, *, cart_id: UUID, user_id: str | None, reference: str | None
    ) -> int: ...

class CartExplainRefusal(Statement[Row]):
    async def one(self, connection: Connection, /, *, cart_id: UUID, product_id: int, user_id: str | None) -> Row: ...

class CartForgetCurrency(Statement[None]):
    async def run(self, connection: Connection, /, *, cart_id: UUID) -> int: ...

class CartListCarts(Statement[Row]):
    async def all(self, connection: Connection, /, *, user_id: str, before_id: UUID, limit: int) -> list[Row]: ...

class CartOpenCart(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, cart_id: UUID, user_id: str | None) -> Row | None: ...

class CartOpenForProduct(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, cart_id: UUID, product_id: int, max_per_order: int, user_id: str | None
    ) -> Row | None: ...

class CartReadCart(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, cart_id: UUID, user_id: str | None, reads_all: bool
    ) -> list[Row]: ...

class CartRemoveLine(Statement[None]):
    async def run(self, connection: Connection, /, *, cart_id: UUID, product_id: int) -> int: ...

class CartSetLine(Statement[None]):
    async def run(self, connection: Connection, /, *, cart_id: UUID, product_id: int, quantity: int) -> int: ...

class CatalogCreateCategory(Statement[Row]):
    async def one(self, connection: Connection, /, *, name: str, slug: str) -> Row: ...

class CatalogCreateProduct(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        name: str,
        description: str,
        category_id: int | None,
        price_minor: int,
        currency: str,
        stock: int,
        active: bool,
        sku: str | None,
        image_url: str | None,
        max_per_order: int | None,
        actor: str,
    ) -> Row | None: ...

class CatalogDeactivateProduct(Statement[None]):
    async def run(self, connection: Connection, /, *, product_id: int) -> int: ...

class CatalogDeleteCategory(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, category_id: int) -> Row | None: ...

class CatalogFindCategory(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, slug: str) -> Row | None: ...

class CatalogFindStaffProducts(Statement[Row]):
    async def one(
        self,
        connection: Connection,
        /,
        *,
        category_id: int | None,
        active: bool | None,
        stock_at_most: int | None,
        after_id: int,
        limit: int,
    ) -> Row: ...

class CatalogGetProduct(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, product_id: int) -> Row | None: ...

class CatalogListCategories(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: int, limit: int) -> list[Row]: ...

class CatalogListCategoryProducts(Statement[Row]):
    async def one(self, connection: Connection, /, *, category_id: int, after_id: int, limit: int) -> Row: ...

class CatalogListMovements(Statement[Row]):
    async def all(self, connection: Connection, /, *, product_id: int, before_id: int, limit: int) -> list[Row]: ...

class CatalogListProducts(Statement[Row]):
    async def one(self, connection: Connection, /, *, after_id: int, limit: int) -> Row: ...

class CatalogListStaffProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, product_ids: Sequence[int]) -> list[Row]: ...

class CatalogLockCategory(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, category_id: int) -> Row | None: ...

class CatalogLockProduct(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, product_id: int) -> Row | None: ...

class CatalogLockProductBySku(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, sku: str) -> Row | None: ...

class CatalogMoveStock(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, product_id: int, delta: int, reason: str, actor: str
    ) -> Row | None: ...

class CatalogUpdateCategory(Statement[Row]):
    async def one(self, connection: Connection, /, *, category_id: int, name: str | None, slug: str | None) -> Row: ...

class CatalogUpdateProduct(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        product_id: int,
        name: str | None,
        description: str | None,
        price_minor: int | None,
        set_category: bool,
        category_id: int | None,
        active: bool | None,
        set_sku: bool,
        sku: str | None,
        set_image_url: bool,
        image_url: str | None,
        set_max_per_order: bool,
        max_per_order: int | None,
    ) -> Row | None: ...

class CheckoutCloseCart(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, cart_id: UUID, client_key: int | None, user_id: str | None
    ) -> Row | None: ...

class CheckoutExplainRefusal(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, cart_id: UUID, client: bytes | None, client_network: bytes | None
    ) -> list[Row]: ...

class CheckoutFindOrder(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, cart_id: UUID, user_id: str | None) -> Row | None: ...

class CheckoutListProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, cart_id: UUID) -> list[Row]: ...

class CheckoutLockProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, cart_id: UUID) -> list[Row]: ...

class CheckoutReserve(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        order_id: UUID,
        cart_id: UUID,
        payment_id: UUID,
        expected_total_minor: int | None,
        hold_seconds: int,
        session_seconds: int,
        claim_seconds: float,
        session_template: dict[str, Any],
        cause: str,
        client: bytes | None,
        currency: str,
        minimum_minor: int,
        maximum_minor: int,
        line_count: int,
        client_network: bytes | None,
        max_pending: int,
        max_per_order: int,
        actor: str,
        user_id: str | None,
        reference: str | None,
    ) -> Row | None: ...

class DeliveriesLeaseEndpoints(Statement[Row]):
    async def all(self, connection: Connection, /, *, run_id: UUID, lease_seconds: float) -> list[Row]: ...

class DeliveriesListDue(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, endpoint_id: int, within_seconds: float, sending_ids: Sequence[int]
    ) -> list[Row]: ...

class DeliveriesListDueProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, limit: int) -> list[Row]: ...

class DeliveriesLockProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, product_ids: Sequence[int]) -> list[Row]: ...

class DeliveriesMarkFailing(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, endpoint_id: int) -> Row | None: ...

class DeliveriesMarkWorking(Statement[None]):
    async def run(self, connection: Connection, /, *, endpoint_id: int, switched_on: bool) -> int: ...

class DeliveriesMeasureBacklog(Statement[Row]):
    async def one(self, connection: Connection, /) -> Row: ...

class DeliveriesRecordAttempts(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        endpoint_id: int,
        ids: Sequence[int],
        results: Sequence[str],
        delivered: Sequence[bool],
    ) -> list[Row]: ...

class DeliveriesReleaseLeases(Statement[None]):
    async def run(self, connection: Connection, /, *, run_id: UUID) -> int: ...

class DeliveriesSwitchOff(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, endpoint_id: int) -> Row | None: ...

class DisputesDeleteDispute(Statement[None]):
    async def run(self, connection: Connection, /, *, stripe_dispute_id: str) -> int: ...

class DisputesLinkOrder(Statement[None]):
    async def run(self, connection: Connection, /, *, stripe_payment_intent_id: str, order_id: UUID) -> int: ...

class DisputesRecordDispute(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        stripe_dispute_id: str,
        stripe_payment_intent_id: str,
        order_id: UUID | None,
        amount_minor: int,
        currency: str,
        reason: str,
        status: str,
        reported_at: datetime,
    ) -> Row | None: ...

class ErasureEraseColumns(Statement[Row]):
    async def one(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> Row: ...

class ErasureFindByDigest(Statement[Row]):
    async def all(self, connection: Connection, /, *, email_digest: bytes) -> list[Row]: ...

class ErasureFindByEvents(Statement[Row]):
    async def all(self, connection: Connection, /, *, lower_email: str) -> list[Row]: ...

class ErasureFindByNumber(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, number: int) -> Row | None: ...

class ErasureListPaymentIntents(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class ErasureListWithoutDigest(Statement[Row]):
    async def all(self, connection: Connection, /) -> list[Row]: ...

class ErasureLockEvents(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID], keys: Sequence[str]) -> list[Row]: ...

class ErasureLockOrders(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class ErasureLockResponses(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class ErasureReduceEvent(Statement[None]):
    async def run(self, connection: Connection, /, *, event_id: str, payload: dict[str, Any]) -> int: ...

class ErasureReduceResponse(Statement[None]):
    async def run(self, connection: Connection, /, *, key_id: bytes, answer: bytes) -> int: ...

class EventEndpointsCreateEndpoint(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        url: str,
        types: Sequence[str],
        description: str,
        secret: bytes,
        max_endpoints: int,
    ) -> Row | None: ...

class EventEndpointsDeleteEndpoint(Statement[None]):
    async def run(self, connection: Connection, /, *, endpoint_id: int) -> int: ...

class EventEndpointsGetEndpoint(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, endpoint_id: int) -> Row | None: ...

class EventEndpointsListDeliveries(Statement[Row]):
    async def all(self, connection: Connection, /, *, endpoint_id: int, before_id: int, limit: int) -> list[Row]: ...

class EventEndpointsListEndpoints(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: int, limit: int) -> list[Row]: ...

class EventEndpointsLockEndpoint(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, endpoint_id: int) -> Row | None: ...

class EventEndpointsResendDelivery(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, endpoint_id: int, delivery_id: int) -> Row | None: ...

class EventEndpointsRotateSecret(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, endpoint_id: int, secret: bytes) -> Row | None: ...

class EventEndpointsUpdateEndpoint(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        endpoint_id: int,
        url: str | None,
        types: Sequence[str] | None,
        description: str | None,
        active: bool | None,
    ) -> int: ...

class ExportsListProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_id: int) -> list[Row]: ...

class FulfilmentMarkFulfilled(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, order_id: UUID, cause: str, actor: str) -> Row | None: ...

class HealthClaimTask(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, loop: str, run_id: UUID, lease_seconds: float, pause_seconds: float
    ) -> Row | None: ...

class HealthDescribeServer(Statement[Row]):
    async def one(self, connection: Connection, /) -> Row: ...

class HealthIsMigrated(Statement[Row]):
    async def one(self, connection: Connection, /, *, names: Sequence[str], indexes: Sequence[str]) -> Row: ...

class HealthListTimelyLoops(Statement[Row]):
    async def all(self, connection: Connection, /, *, loops: Sequence[str]) -> list[Row]: ...

class HealthRecordHeartbeat(Statement[None]):
    async def run(self, connection: Connection, /, *, loop: str, seconds: float) -> int: ...

class HealthReleaseTask(Statement[None]):
    async def run(self, connection: Connection, /, *, loop: str, run_id: UUID) -> int: ...

class IdempotencyFindKey(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, key_id: bytes) -> Row | None: ...

class IdempotencyLockKey(Statement[Row]):
    async def one(self, connection: Connection, /, *, advisory_key: int) -> Row: ...

class IdempotencyStoreKey(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        key_id: bytes,
        request_digest: bytes,
        order_id: UUID | None,
        status: int | None,
        location: str | None,
        answer: bytes | None,
    ) -> int: ...

class ImportsAddProducts(Statement[Row]):
    async def one(
        self, connection: Connection, /, *, after_line: int, last_line: int, skip: Sequence[int], actor: str, run: UUID
    ) -> Row: ...

class ImportsCheckLines(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        after_line: int,
        last_line: int,
        find_repeated: bool,
        moved_to: int,
        skipped: Sequence[int],
        maximum_minor: int,
        currencies: Sequence[str],
        maxima_minor: Sequence[int],
        run: UUID,
    ) -> list[Row]: ...

class ImportsClearLines(Statement[None]):
    async def run(self, connection: Connection, /, *, first_run: UUID, last_run: UUID) -> int: ...

class ImportsFinishImport(Statement[None]):
    async def run(self, connection: Connection, /, *, digest: bytes) -> int: ...

class ImportsLockImport(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, digest: bytes) -> Row | None: ...

class ImportsLockProducts(Statement[Row]):
    async def one(
        self,
        connection: Connection,
        /,
        *,
        after_line: int,
        last_line: int,
        set_category: bool,
        set_max_per_order: bool,
        set_image_url: bool,
        moved_to: int,
        skipped: Sequence[int],
        run: UUID,
    ) -> Row: ...

class ImportsRecordBatch(Statement[None]):
    async def run(self, connection: Connection, /, *, digest: bytes, last_line: int, skip: Sequence[int]) -> int: ...

class ImportsStartImport(Statement[None]):
    async def run(self, connection: Connection, /, *, digest: bytes) -> int: ...

class ImportsTryLock(Statement[Row]):
    async def one(self, connection: Connection, /) -> Row: ...

class ImportsUpdateProducts(Statement[Row]):
    async def one(
        self,
        connection: Connection,
        /,
        *,
        after_line: int,
        last_line: int,
        skip: Sequence[int],
        set_category: bool,
        set_max_per_order: bool,
        set_image_url: bool,
        moved_to: int,
        skipped: Sequence[int],
        reason: str,
        actor: str,
        request_id: str,
        run: UUID,
    ) -> Row: ...

class MigrationsListInvalidIndexes(Statement[Row]):
    async def all(self, connection: Connection, /) -> list[Row]: ...

class MigrationsLockMigrations(Statement[Row]):
    async def one(self, connection: Connection, /) -> Row: ...

class OrdersFindByPaymentStatus(Statement[Row]):
    async def one(
        self, connection: Connection, /, *, payment_status: str, status: str | None, before_number: int, limit: int
    ) -> Row: ...

class OrdersFindOrders(Statement[Row]):
    async def one(
        self,
        connection: Connection,
        /,
        *,
        number: int | None,
        email_digest: bytes,
        text: str,
        status: str | None,
        payment_status: str | None,
        before_number: int,
        limit: int,
    ) -> Row: ...

class OrdersListDisputes(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, order_id: UUID, stripe_payment_intent_id: str | None
    ) -> list[Row]: ...

class OrdersListEvents(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, order_id: UUID, user_id: str | None, reads_all: bool
    ) -> list[Row]: ...

class OrdersListItems(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID) -> list[Row]: ...

class OrdersListNumbered(Statement[Row]):
    async def all(self, connection: Connection, /, *, numbers: Sequence[int]) -> list[Row]: ...

class OrdersListOrders(Statement[Row]):
    async def all(self, connection: Connection, /, *, before_number: int, limit: int) -> list[Row]: ...

class OrdersListOrdersByStatus(Statement[Row]):
    async def all(self, connection: Connection, /, *, status: str, before_number: int, limit: int) -> list[Row]: ...

class OrdersListRefundItems(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID) -> list[Row]: ...

class OrdersListRefunds(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID, order_currency: str) -> list[Row]: ...

class OrdersListUserOrders(Statement[Row]):
    async def all(self, connection: Connection, /, *, user_id: str, before_number: int, limit: int) -> list[Row]: ...

class OrdersReadOrder(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, order_id: UUID, user_id: str | None, reads_all: bool
    ) -> Row | None: ...

class OrdersReadShipping(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, order_id: UUID) -> Row | None: ...

class OrdersWalkOrders(Statement[Row]):
    async def one(self, connection: Connection, /, *, payment_status: str, before_number: int, limit: int) -> Row: ...

class OrdersWalkOrdersByStatus(Statement[Row]):
    async def one(
        self, connection: Connection, /, *, status: str, payment_status: str, before_number: int, limit: int
    ) -> Row: ...

class OutboxAddEvent(Statement[None]):
    async def run(
        self, connection: Connection, /, *, event_id: UUID, type: str, order_id: UUID, data: dict[str, Any]
    ) -> int: ...

class OutboxAnnounceProducts(Statement[None]):
    async def run(self, connection: Connection, /, *, product_ids: Sequence[int]) -> int: ...

class OwnershipClaimCart(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, cart_id: UUID, user_id: str) -> Row | None: ...

class OwnershipClaimOrders(Statement[Row]):
    async def all(self, connection: Connection, /, *, cart_id: UUID, user_id: str) -> list[Row]: ...

class PaymentSessionAttachSession(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, order_id: UUID, stripe_session_id: str, checkout_url: str | None
    ) -> Row | None: ...

class PaymentSessionClaimSession(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, order_id: UUID, claim_seconds: float) -> Row | None: ...

class PaymentSessionReadClaim(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, order_id: UUID) -> Row | None: ...

class PaymentSessionReleaseClaim(Statement[None]):
    async def run(self, connection: Connection, /, *, order_id: UUID) -> int: ...

class PaymentSessionStartAttempt(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, order_id: UUID, attempt: int, session_seconds: int, claim_seconds: float
    ) -> Row | None: ...

class PressureMeasureHolds(Statement[Row]):
    async def one(self, connection: Connection, /, *, seconds: float) -> Row: ...

class ReconcileFindMissedEvents(Statement[Row]):
    async def all(self, connection: Connection, /, *, event_ids: Sequence[str]) -> list[Row]: ...

class ReconcileFindOtherSessions(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, order_ids: Sequence[UUID], session_ids: Sequence[str]
    ) -> list[Row]: ...

class ReconcileFindUnsettled(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class ReconcileMovePosition(Statement[None]):
    async def run(self, connection: Connection, /, *, list: str, reached_at: datetime) -> int: ...

class ReconcileReadPosition(Statement[Row]):
    async def one(self, connection: Connection, /, *, list: str) -> Row: ...

class RefundsAddItems(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        refund_id: UUID,
        product_ids: Sequence[int],
        quantities: Sequence[int],
        restocks: Sequence[bool],
    ) -> int: ...

class RefundsAddRefund(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        refund_id: UUID,
        order_id: UUID,
        stripe_payment_intent_id: str,
        amount_minor: int,
        cause: str,
        restock: bool,
        reason: str | None,
        wait_seconds: float,
        actor: str,
    ) -> int: ...

class RefundsAddUnmatched(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        stripe_payment_intent_id: str,
        order_id: UUID,
        amount_minor: int,
        currency: str,
    ) -> int: ...

class RefundsFailRefund(Statement[None]):
    async def run(self, connection: Connection, /, *, refund_id: UUID, failure_reason: str) -> int: ...

class RefundsFindOrder(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, stripe_payment_intent_id: str) -> Row | None: ...

class RefundsListLines(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID) -> list[Row]: ...

class RefundsListRefunds(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID) -> list[Row]: ...

class RefundsListReturns(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID, hold_number: int) -> list[Row]: ...

class RefundsListUnmatched(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID) -> list[Row]: ...

class RefundsRecordRefund(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        refund_id: UUID,
        order_id: UUID,
        stripe_payment_intent_id: str,
        amount_minor: int,
        status: str,
        stripe_refund_id: str,
        failure_reason: str | None,
    ) -> int: ...

class RefundsReturnUnits(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        order_id: UUID,
        hold_number: int,
        actor: str,
        refund_ids: Sequence[UUID],
        product_ids: Sequence[int],
        quantities: Sequence[int],
    ) -> list[Row]: ...

class RefundsSetBalance(Statement[None]):
    async def run(self, connection: Connection, /, *, order_id: UUID, refunded_minor: int, status: str) -> int: ...

class RefundsSettleUnmatched(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID) -> list[Row]: ...

class RetentionDeleteCarts(Statement[None]):
    async def run(self, connection: Connection, /, *, days: int, limit: int) -> int: ...

class RetentionDeleteDeliveries(Statement[None]):
    async def run(self, connection: Connection, /, *, days: int, limit: int) -> int: ...

class RetentionDeleteEndpoints(Statement[None]):
    async def run(self, connection: Connection, /, *, limit: int) -> int: ...

class RetentionDeleteEvents(Statement[None]):
    async def run(self, connection: Connection, /, *, days: int, limit: int) -> int: ...

class RetentionDeleteKeys(Statement[None]):
    async def run(self, connection: Connection, /, *, limit: int) -> int: ...

class RetentionDeleteUnsent(Statement[None]):
    async def run(self, connection: Connection, /, *, endpoint_id: int, days: int, limit: int) -> int: ...

class RetentionListOffEndpoints(Statement[Row]):
    async def all(self, connection: Connection, /) -> list[Row]: ...

class SearchCountMatches(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, queries: Sequence[str], min_prices: Sequence[int], max_prices: Sequence[int]
    ) -> list[Row]: ...

class SearchFindLanguage(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, language: str) -> Row | None: ...

class SearchFindSimilar(Statement[Row]):
    async def all(self, connection: Connection, /, *, word: str, swapped: Sequence[str]) -> list[Row]: ...

class SearchFindStale(Statement[Row]):
    async def one(self, connection: Connection, /, *, after_id: int, language: str) -> Row: ...

class SearchIndexProducts(Statement[None]):
    async def run(self, connection: Connection, /, *, product_ids: Sequence[int], language: str) -> int: ...

class SearchMatchPrices(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        currency: str,
        query: str | None,
        name_query: str | None,
        sort: str,
        min_price: int,
        max_price: int,
        available: bool | None,
        limit: int,
        after_rank: int,
        after_name: str,
        after_place: int,
    ) -> list[Row]: ...

class SearchMatchWords(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        rare_words: str,
        query: str | None,
        name_query: str | None,
        sort: str,
        min_price: int,
        max_price: int,
        available: bool | None,
        limit: int,
        after_rank: int,
        after_name: str,
        after_place: int,
    ) -> list[Row]: ...

class SearchSplitQuery(Statement[Row]):
    async def all(self, connection: Connection, /, *, query: str, language: str) -> list[Row]: ...

class SearchWalkName(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        query: str | None,
        min_price: int,
        max_price: int,
        available: bool | None,
        after_name: str,
        after_id: int,
        limit: int,
    ) -> list[Row]: ...

class SearchWalkNewest(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        query: str | None,
        min_price: int,
        max_price: int,
        available: bool | None,
        before_id: int,
        limit: int,
    ) -> list[Row]: ...

class SearchWalkPrice(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        query: str | None,
        currency: str,
        min_price: int,
        max_price: int,
        available: bool | None,
        after_price: int,
        after_id: int,
        limit: int,
    ) -> list[Row]: ...

class SearchWalkPriceDown(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        query: str | None,
        currency: str,
        min_price: int,
        max_price: int,
        available: bool | None,
        before_price: int,
        before_id: int,
        limit: int,
    ) -> list[Row]: ...

class SeedAddCategory(Statement[Row]):
    async def one(self, connection: Connection, /, *, name: str, slug: str) -> Row: ...

class SeedAddProducts(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        names: Sequence[str],
        descriptions: Sequence[str],
        category_ids: Sequence[int],
        prices_minor: Sequence[int],
        currencies: Sequence[str],
        stocks: Sequence[int],
        actor: str,
    ) -> int: ...

class SeedFindNewestProduct(Statement[Row]):
    async def one_or_none(self, connection: Connection, /) -> Row | None: ...

class SettlementCartHasLiveOrder(Statement[Row]):
    async def one(self, connection: Connection, /, *, cart_id: UUID) -> Row: ...

class SettlementMarkProcessing(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        order_id: UUID,
        stripe_session_id: str,
        cause: str,
        recheck_seconds: float,
        actor: str,
        email: str | None,
        email_digest: bytes | None,
    ) -> Row | None: ...

class SettlementRecordLatePayment(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        order_id: UUID,
        stripe_session_id: str,
        stripe_payment_intent_id: str,
        captured_minor: int | None,
        captured_currency: str | None,
    ) -> Row | None: ...

class SettlementReplaceCart(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, cart_id: UUID, order_id: UUID, new_cart_id: UUID
    ) -> Row | None: ...

class SettlementRestoreCart(Statement[None]):
    async def run(self, connection: Connection, /, *, cart_id: UUID, order_id: UUID) -> int: ...

class SettlementRetakeStock(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID, hold_number: int, actor: str) -> list[Row]: ...

class SettlementStoreShipping(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        order_id: UUID,
        name: str | None,
        phone: str | None,
        line1: str | None,
        line2: str | None,
        city: str | None,
        state: str | None,
        postal_code: str | None,
        country: str | None,
    ) -> int: ...

class StuckAddItem(Statement[Row]):
    async def one_or_none(
        self, connection: Connection, /, *, kind: str, id: str, order_id: UUID | None, reason: str
    ) -> Row | None: ...

class StuckCountItems(Statement[Row]):
    async def all(self, connection: Connection, /) -> list[Row]: ...

class StuckEndItems(Statement[None]):
    async def run(self, connection: Connection, /, *, kind: str, ids: Sequence[str]) -> int: ...

class StuckFindItem(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, kind: str, id: str) -> Row | None: ...

class StuckFindOpenRefunds(Statement[Row]):
    async def all(self, connection: Connection, /, *, refund_ids: Sequence[UUID]) -> list[Row]: ...

class StuckFindUnhandledEvents(Statement[Row]):
    async def all(self, connection: Connection, /, *, event_ids: Sequence[str]) -> list[Row]: ...

class StuckListItems(Statement[Row]):
    async def all(self, connection: Connection, /, *, after_number: int, limit: int) -> list[Row]: ...

class StuckListItemsOfKind(Statement[Row]):
    async def all(self, connection: Connection, /, *, kind: str, after_number: int, limit: int) -> list[Row]: ...

class StuckListResolved(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_id: UUID) -> list[Row]: ...

class StuckResolveItem(Statement[None]):
    async def run(self, connection: Connection, /, *, kind: str, id: str) -> int: ...

class SweepClaimEvents(Statement[Row]):
    async def all(self, connection: Connection, /, *, limit: int) -> list[Row]: ...

class SweepClaimOrders(Statement[Row]):
    async def all(self, connection: Connection, /, *, limit: int) -> list[Row]: ...

class SweepClaimRefunds(Statement[Row]):
    async def all(self, connection: Connection, /, *, limit: int) -> list[Row]: ...

class SweepClaimUnmatched(Statement[Row]):
    async def all(self, connection: Connection, /, *, limit: int) -> list[Row]: ...

class SweepMeasureBacklog(Statement[Row]):
    async def all(self, connection: Connection, /) -> list[Row]: ...

class TransitionsAddNote(Statement[None]):
    async def run(
        self, connection: Connection, /, *, order_id: UUID, status: str, cause: str, note: str, actor: str
    ) -> int: ...

class TransitionsLockOrder(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, order_id: UUID) -> Row | None: ...

class TransitionsLockOrders(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class TransitionsLockProducts(Statement[Row]):
    async def all(self, connection: Connection, /, *, order_ids: Sequence[UUID]) -> list[Row]: ...

class TransitionsMarkCancelled(Statement[Row]):
    async def all(
        self,
        connection: Connection,
        /,
        *,
        order_ids: Sequence[UUID],
        from_status: str,
        payment_status: str,
        cause: str,
        note: str | None,
        actor: str,
    ) -> list[Row]: ...

class TransitionsMarkPaid(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        order_id: UUID,
        from_status: str,
        hold_number: int,
        stripe_session_id: str,
        stripe_payment_intent_id: str | None,
        email: str | None,
        email_digest: bytes | None,
        cause: str,
        actor: str,
    ) -> Row | None: ...

class TransitionsReturnStock(Statement[Row]):
    async def all(
        self, connection: Connection, /, *, order_ids: Sequence[UUID], hold_numbers: Sequence[int], actor: str
    ) -> list[Row]: ...

class WebhooksFinishEvent(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        event_id: str,
        outcome: str,
        order_id: UUID | None,
        handled: bool,
        reduced_payload: dict[str, Any],
    ) -> int: ...

class WebhooksReadEvent(Statement[Row]):
    async def one_or_none(self, connection: Connection, /, *, event_id: str) -> Row | None: ...

class WebhooksRecordEvent(Statement[Row]):
    async def one_or_none(
        self,
        connection: Connection,
        /,
        *,
        event_id: str,
        event_type: str,
        payload: dict[str, Any],
        reduced_payload: dict[str, Any],
        outcome: str,
        order_id: UUID | None,
        named_order_id: UUID | None,
        handled: bool,
    ) -> Row | None: ...

class WebhooksStoreEvent(Statement[None]):
    async def run(
        self,
        connection: Connection,
        /,
        *,
        event_id: str,
        event_type: str,
        payload: dict[str, Any],
        reduced_payload: dict[str, Any],
        named_order_id: UUID | None,
    ) -> int: ...

@overload
def statement(name: Literal["access/add_key"]) -> AccessAddKey: ...
@overload
def statement(name: Literal["access/find_key"], row: type[Row]) -> AccessFindKey[Row]: ...
@overload
def statement(name: Literal["access/list_keys"], row: type[Row]) -> AccessListKeys[Row]: ...
@overload
def statement(name: Literal["access/list_revocations"], row: type[Row]) -> AccessListRevocations[Row]: ...
@overload
def statement(name: Literal["access/revoke_key"]) -> AccessRevokeKey: ...
@overload
def statement(name: Literal["access/revoke_tokens"]) -> AccessRevokeTokens: ...
@overload
def statement(
    name: Literal["audit/captured_is_paid_at_stripe"], row: type[Row]
) -> AuditCapturedIsPaidAtStripe[Row]: ...
@overload
def statement(name: Literal["audit/cart_lines_have_products"], row: type[Row]) -> AuditCartLinesHaveProducts[Row]: ...
@overload
def statement(name: Literal["audit/carts_match_orders"], row: type[Row]) -> AuditCartsMatchOrders[Row]: ...
@overload
def statement(name: Literal["audit/history_is_legal"], row: type[Row]) -> AuditHistoryIsLegal[Row]: ...
@overload
def statement(name: Literal["audit/nothing_is_overdue"], row: type[Row]) -> AuditNothingIsOverdue[Row]: ...
@overload
def statement(name: Literal["audit/order_lines_add_up"], row: type[Row]) -> AuditOrderLinesAddUp[Row]: ...
@overload
def statement(name: Literal["audit/payment_fits_order"], row: type[Row]) -> AuditPaymentFitsOrder[Row]: ...
@overload
def statement(name: Literal["audit/refund_lines_add_up"], row: type[Row]) -> AuditRefundLinesAddUp[Row]: ...
@overload
def statement(name: Literal["audit/stock_matches_ledger"], row: type[Row]) -> AuditStockMatchesLedger[Row]: ...
@overload
def statement(name: Literal["audit/units_add_up"], row: type[Row]) -> AuditUnitsAddUp[Row]: ...
@overload
def statement(
    name: Literal["audit/unmatched_payments_are_refunded"], row: type[Row]
) -> AuditUnmatchedPaymentsAreRefunded[Row]: ...
@overload
def statement(name: Literal["audit_log/add_entry"]) -> AuditLogAddEntry: ...
@overload
def statement(name: Literal["audit_log/list_entries"], row: type[Row]) -> AuditLogListEntries[Row]: ...
@overload
def statement(name: Literal["audit_log/list_entries_by_actor"], row: type[Row]) -> AuditLogListEntriesByActor[Row]: ...
@overload
def statement(
    name: Literal["audit_log/list_entries_of_subject"], row: type[Row]
) -> AuditLogListEntriesOfSubject[Row]: ...
@overload
def statement(
    name: Literal["audit_log/list_entries_of_subject_by_actor"], row: type[Row]
) -> AuditLogListEntriesOfSubjectByActor[Row]: ...
@overload
def statement(name: Literal["audit_state/fold_balances"], row: type[Row]) -> AuditStateFoldBalances[Row]: ...
@overload
def statement(name: Literal["audit_state/list_carts"], row: type[Row]) -> AuditStateListCarts[Row]: ...
@overload
def statement(
    name: Literal["audit_state/list_carts_by_events"], row: type[Row]
) -> AuditStateListCartsByEvents[Row]: ...
@overload
def statement(name: Literal["audit_state/list_orders"], row: type[Row]) -> AuditStateListOrders[Row]: ...
@overload
def statement(
    name: Literal["audit_state/list_orders_by_events"], row: type[Row]
) -> AuditStateListOrdersByEvents[Row]: ...
@overload
def statement(
    name: Literal["audit_state/list_orders_by_movements"], row: type[Row]
) -> AuditStateListOrdersByMovements[Row]: ...
@overload
def statement(
    name: Literal["audit_state/list_orders_by_refunds"], row: type[Row]
) -> AuditStateListOrdersByRefunds[Row]: ...
@overload
def statement(name: Literal["audit_state/list_products"], row: type[Row]) -> AuditStateListProducts[Row]: ...
@overload
def statement(
    name: Literal["audit_state/list_products_by_movements"], row: type[Row]
) -> AuditStateListProductsByMovements[Row]: ...
@overload
def statement(name: Literal["audit_state/list_results"], row: type[Row]) -> AuditStateListResults[Row]: ...
@overload
def statement(name: Literal["audit_state/list_sessions"], row: type[Row]) -> AuditStateListSessions[Row]: ...
@overload
def statement(name: Literal["audit_state/list_violations"], row: type[Row]) -> AuditStateListViolations[Row]: ...
@overload
def statement(name: Literal["audit_state/lock_rule"]) -> AuditStateLockRule: ...
@overload
def statement(name: Literal["audit_state/move_position"]) -> AuditStateMovePosition: ...
@overload
def statement(name: Literal["audit_state/read_ends"], row: type[Row]) -> AuditStateReadEnds[Row]: ...
@overload
def statement(name: Literal["audit_state/read_position"], row: type[Row]) -> AuditStateReadPosition[Row]: ...
@overload
def statement(name: Literal["audit_state/read_transactions"], row: type[Row]) -> AuditStateReadTransactions[Row]: ...
@overload
def statement(name: Literal["audit_state/record_pass"]) -> AuditStateRecordPass: ...
@overload
def statement(name: Literal["audit_state/set_balances"]) -> AuditStateSetBalances: ...
@overload
def statement(name: Literal["audit_state/store_violations"]) -> AuditStateStoreViolations: ...
@overload
def statement(name: Literal["audit_state/sum_ledger"], row: type[Row]) -> AuditStateSumLedger[Row]: ...
@overload
def statement(name: Literal["cart/add_line"], row: type[Row]) -> CartAddLine[Row]: ...
@overload
def statement(name: Literal["cart/check_owner"], row: type[Row]) -> CartCheckOwner[Row]: ...
@overload
def statement(name: Literal["cart/create_cart"]) -> CartCreateCart: ...
@overload
def statement(name: Literal["cart/explain_refusal"], row: type[Row]) -> CartExplainRefusal[Row]: ...
@overload
def statement(name: Literal["cart/forget_currency"]) -> CartForgetCurrency: ...
@overload
def statement(name: Literal["cart/list_carts"], row: type[Row]) -> CartListCarts[Row]: ...
@overload
def statement(name: Literal["cart/open_cart"], row: type[Row]) -> CartOpenCart[Row]: ...
@overload
def statement(name: Literal["cart/open_for_product"], row: type[Row]) -> CartOpenForProduct[Row]: ...
@overload
def statement(name: Literal["cart/read_cart"], row: type[Row]) -> CartReadCart[Row]: ...
@overload
def statement(name: Literal["cart/remove_line"]) -> CartRemoveLine: ...
@overload
def statement(name: Literal["cart/set_line"]) -> CartSetLine: ...
@overload
def statement(name: Literal["catalog/create_category"], row: type[Row]) -> CatalogCreateCategory[Row]: ...
@overload
def statement(name: Literal["catalog/create_product"], row: type[Row]) -> CatalogCreateProduct[Row]: ...
@overload
def statement(name: Literal["catalog/deactivate_product"]) -> CatalogDeactivateProduct: ...
@overload
def statement(name: Literal["catalog/delete_category"], row: type[Row]) -> CatalogDeleteCategory[Row]: ...
@overload
def statement(name: Literal["catalog/find_category"], row: type[Row]) -> CatalogFindCategory[Row]: ...
@overload
def statement(name: Literal["catalog/find_staff_products"], row: type[Row]) -> CatalogFindStaffProducts[Row]: ...
@overload
def statement(name: Literal["catalog/get_product"], row: type[Row]) -> CatalogGetProduct[Row]: ...
@overload
def statement(name: Literal["catalog/list_categories"], row: type[Row]) -> CatalogListCategories[Row]: ...
@overload
def statement(name: Literal["catalog/list_category_products"], row: type[Row]) -> CatalogListCategoryProducts[Row]: ...
@overload
def statement(name: Literal["catalog/list_movements"], row: type[Row]) -> CatalogListMovements[Row]: ...
@overload
def statement(name: Literal["catalog/list_products"], row: type[Row]) -> CatalogListProducts[Row]: ...
@overload
def statement(name: Literal["catalog/list_staff_products"], row: type[Row]) -> CatalogListStaffProducts[Row]: ...
@overload
def statement(name: Literal["catalog/lock_category"], row: type[Row]) -> CatalogLockCategory[Row]: ...
@overload
def statement(name: Literal["catalog/lock_product"], row: type[Row]) -> CatalogLockProduct[Row]: ...
@overload
def statement(name: Literal["catalog/lock_product_by_sku"], row: type[Row]) -> CatalogLockProductBySku[Row]: ...
@overload
def statement(name: Literal["catalog/move_stock"], row: type[Row]) -> CatalogMoveStock[Row]: ...
@overload
def statement(name: Literal["catalog/update_category"], row: type[Row]) -> CatalogUpdateCategory[Row]: ...
@overload
def statement(name: Literal["catalog/update_product"], row: type[Row]) -> CatalogUpdateProduct[Row]: ...
@overload
def statement(name: Literal["checkout/close_cart"], row: type[Row]) -> CheckoutCloseCart[Row]: ...
@overload
def statement(name: Literal["checkout/explain_refusal"], row: type[Row]) -> CheckoutExplainRefusal[Row]: ...
@overload
def statement(name: Literal["checkout/find_order"], row: type[Row]) -> CheckoutFindOrder[Row]: ...
@overload
def statement(name: Literal["checkout/list_products"], row: type[Row]) -> CheckoutListProducts[Row]: ...
@overload
def statement(name: Literal["checkout/lock_products"], row: type[Row]) -> CheckoutLockProducts[Row]: ...
@overload
def statement(name: Literal["checkout/reserve"], row: type[Row]) -> CheckoutReserve[Row]: ...
@overload
def statement(name: Literal["deliveries/lease_endpoints"], row: type[Row]) -> DeliveriesLeaseEndpoints[Row]: ...
@overload
def statement(name: Literal["deliveries/list_due"], row: type[Row]) -> DeliveriesListDue[Row]: ...
@overload
def statement(name: Literal["deliveries/list_due_products"], row: type[Row]) -> DeliveriesListDueProducts[Row]: ...
@overload
def statement(name: Literal["deliveries/lock_products"], row: type[Row]) -> DeliveriesLockProducts[Row]: ...
@overload
def statement(name: Literal["deliveries/mark_failing"], row: type[Row]) -> DeliveriesMarkFailing[Row]: ...
@overload
def statement(name: Literal["deliveries/mark_working"]) -> DeliveriesMarkWorking: ...
@overload
def statement(name: Literal["deliveries/measure_backlog"], row: type[Row]) -> DeliveriesMeasureBacklog[Row]: ...
@overload
def statement(name: Literal["deliveries/record_attempts"], row: type[Row]) -> DeliveriesRecordAttempts[Row]: ...
@overload
def statement(name: Literal["deliveries/release_leases"]) -> DeliveriesReleaseLeases: ...
@overload
def statement(name: Literal["deliveries/switch_off"], row: type[Row]) -> DeliveriesSwitchOff[Row]: ...
@overload
def statement(name: Literal["disputes/delete_dispute"]) -> DisputesDeleteDispute: ...
@overload
def statement(name: Literal["disputes/link_order"]) -> DisputesLinkOrder: ...
@overload
def statement(name: Literal["disputes/record_dispute"], row: type[Row]) -> DisputesRecordDispute[Row]: ...
@overload
def statement(name: Literal["erasure/erase_columns"], row: type[Row]) -> ErasureEraseColumns[Row]: ...
@overload
def statement(name: Literal["erasure/find_by_digest"], row: type[Row]) -> ErasureFindByDigest[Row]: ...
@overload
def statement(name: Literal["erasure/find_by_events"], row: type[Row]) -> ErasureFindByEvents[Row]: ...
@overload
def statement(name: Literal["erasure/find_by_number"], row: type[Row]) -> ErasureFindByNumber[Row]: ...
@overload
def statement(name: Literal["erasure/list_payment_intents"], row: type[Row]) -> ErasureListPaymentIntents[Row]: ...
@overload
def statement(name: Literal["erasure/list_without_digest"], row: type[Row]) -> ErasureListWithoutDigest[Row]: ...
@overload
def statement(name: Literal["erasure/lock_events"], row: type[Row]) -> ErasureLockEvents[Row]: ...
@overload
def statement(name: Literal["erasure/lock_orders"], row: type[Row]) -> ErasureLockOrders[Row]: ...
@overload
def statement(name: Literal["erasure/lock_responses"], row: type[Row]) -> ErasureLockResponses[Row]: ...
@overload
def statement(name: Literal["erasure/reduce_event"]) -> ErasureReduceEvent: ...
@overload
def statement(name: Literal["erasure/reduce_response"]) -> ErasureReduceResponse: ...
@overload
def statement(
    name: Literal["event_endpoints/create_endpoint"], row: type[Row]
) -> EventEndpointsCreateEndpoint[Row]: ...
@overload
def statement(name: Literal["event_endpoints/delete_endpoint"]) -> EventEndpointsDeleteEndpoint: ...
@overload
def statement(name: Literal["event_endpoints/get_endpoint"], row: type[Row]) -> EventEndpointsGetEndpoint[Row]: ...
@overload
def statement(
    name: Literal["event_endpoints/list_deliveries"], row: type[Row]
) -> EventEndpointsListDeliveries[Row]: ...
@overload
def statement(name: Literal["event_endpoints/list_endpoints"], row: type[Row]) -> EventEndpointsListEndpoints[Row]: ...
@overload
def statement(name: Literal["event_endpoints/lock_endpoint"], row: type[Row]) -> EventEndpointsLockEndpoint[Row]: ...
@overload
def statement(
    name: Literal["event_endpoints/resend_delivery"], row: type[Row]
) -> EventEndpointsResendDelivery[Row]: ...
@overload
def statement(name: Literal["event_endpoints/rotate_secret"], row: type[Row]) -> EventEndpointsRotateSecret[Row]: ...
@overload
def statement(name: Literal["event_endpoints/update_endpoint"]) -> EventEndpointsUpdateEndpoint: ...
@overload
def statement(name: Literal["exports/list_products"], row: type[Row]) -> ExportsListProducts[Row]: ...
@overload
def statement(name: Literal["fulfilment/mark_fulfilled"], row: type[Row]) -> FulfilmentMarkFulfilled[Row]: ...
@overload
def statement(name: Literal["health/claim_task"], row: type[Row]) -> HealthClaimTask[Row]: ...
@overload
def statement(name: Literal["health/describe_server"], row: type[Row]) -> HealthDescribeServer[Row]: ...
@overload
def statement(name: Literal["health/is_migrated"], row: type[Row]) -> HealthIsMigrated[Row]: ...
@overload
def statement(name: Literal["health/list_timely_loops"], row: type[Row]) -> HealthListTimelyLoops[Row]: ...
@overload
def statement(name: Literal["health/record_heartbeat"]) -> HealthRecordHeartbeat: ...
@overload
def statement(name: Literal["health/release_task"]) -> HealthReleaseTask: ...
@overload
def statement(name: Literal["idempotency/find_key"], row: type[Row]) -> IdempotencyFindKey[Row]: ...
@overload
def statement(name: Literal["idempotency/lock_key"], row: type[Row]) -> IdempotencyLockKey[Row]: ...
@overload
def statement(name: Literal["idempotency/store_key"]) -> IdempotencyStoreKey: ...
@overload
def statement(name: Literal["imports/add_products"], row: type[Row]) -> ImportsAddProducts[Row]: ...
@overload
def statement(name: Literal["imports/check_lines"], row: type[Row]) -> ImportsCheckLines[Row]: ...
@overload
def statement(name: Literal["imports/clear_lines"]) -> ImportsClearLines: ...
@overload
def statement(name: Literal["imports/finish_import"]) -> ImportsFinishImport: ...
@overload
def statement(name: Literal["imports/lock_import"], row: type[Row]) -> ImportsLockImport[Row]: ...
@overload
def statement(name: Literal["imports/lock_products"], row: type[Row]) -> ImportsLockProducts[Row]: ...
@overload
def statement(name: Literal["imports/record_batch"]) -> ImportsRecordBatch: ...
@overload
def statement(name: Literal["imports/start_import"]) -> ImportsStartImport: ...
@overload
def statement(name: Literal["imports/try_lock"], row: type[Row]) -> ImportsTryLock[Row]: ...
@overload
def statement(name: Literal["imports/update_products"], row: type[Row]) -> ImportsUpdateProducts[Row]: ...
@overload
def statement(
    name: Literal["migrations/list_invalid_indexes"], row: type[Row]
) -> MigrationsListInvalidIndexes[Row]: ...
@overload
def statement(name: Literal["migrations/lock_migrations"], row: type[Row]) -> MigrationsLockMigrations[Row]: ...
@overload
def statement(name: Literal["orders/find_by_payment_status"], row: type[Row]) -> OrdersFindByPaymentStatus[Row]: ...
@overload
def statement(name: Literal["orders/find_orders"], row: type[Row]) -> OrdersFindOrders[Row]: ...
@overload
def statement(name: Literal["orders/list_disputes"], row: type[Row]) -> OrdersListDisputes[Row]: ...
@overload
def statement(name: Literal["orders/list_events"], row: type[Row]) -> OrdersListEvents[Row]: ...
@overload
def statement(name: Literal["orders/list_items"], row: type[Row]) -> OrdersListItems[Row]: ...
@overload
def statement(name: Literal["orders/list_numbered"], row: type[Row]) -> OrdersListNumbered[Row]: ...
@overload
def statement(name: Literal["orders/list_orders"], row: type[Row]) -> OrdersListOrders[Row]: ...
@overload
def statement(name: Literal["orders/list_orders_by_status"], row: type[Row]) -> OrdersListOrdersByStatus[Row]: ...
@overload
def statement(name: Literal["orders/list_refund_items"], row: type[Row]) -> OrdersListRefundItems[Row]: ...
@overload
def statement(name: Literal["orders/list_refunds"], row: type[Row]) -> OrdersListRefunds[Row]: ...
@overload
def statement(name: Literal["orders/list_user_orders"], row: type[Row]) -> OrdersListUserOrders[Row]: ...
@overload
def statement(name: Literal["orders/read_order"], row: type[Row]) -> OrdersReadOrder[Row]: ...
@overload
def statement(name: Literal["orders/read_shipping"], row: type[Row]) -> OrdersReadShipping[Row]: ...
@overload
def statement(name: Literal["orders/walk_orders"], row: type[Row]) -> OrdersWalkOrders[Row]: ...
@overload
def statement(name: Literal["orders/walk_orders_by_status"], row: type[Row]) -> OrdersWalkOrdersByStatus[Row]: ...
@overload
def statement(name: Literal["outbox/add_event"]) -> OutboxAddEvent: ...
@overload
def statement(name: Literal["outbox/announce_products"]) -> OutboxAnnounceProducts: ...
@overload
def statement(name: Literal["ownership/claim_cart"], row: type[Row]) -> OwnershipClaimCart[Row]: ...
@overload
def statement(name: Literal["ownership/claim_orders"], row: type[Row]) -> OwnershipClaimOrders[Row]: ...
@overload
def statement(name: Literal["payment_session/attach_session"], row: type[Row]) -> PaymentSessionAttachSession[Row]: ...
@overload
def statement(name: Literal["payment_session/claim_session"], row: type[Row]) -> PaymentSessionClaimSession[Row]: ...
@overload
def statement(name: Literal["payment_session/read_claim"], row: type[Row]) -> PaymentSessionReadClaim[Row]: ...
@overload
def statement(name: Literal["payment_session/release_claim"]) -> PaymentSessionReleaseClaim: ...
@overload
def statement(name: Literal["payment_session/start_attempt"], row: type[Row]) -> PaymentSessionStartAttempt[Row]: ...
@overload
def statement(name: Literal["pressure/measure_holds"], row: type[Row]) -> PressureMeasureHolds[Row]: ...
@overload
def statement(name: Literal["reconcile/find_missed_events"], row: type[Row]) -> ReconcileFindMissedEvents[Row]: ...
@overload
def statement(name: Literal["reconcile/find_other_sessions"], row: type[Row]) -> ReconcileFindOtherSessions[Row]: ...
@overload
def statement(name: Literal["reconcile/find_unsettled"], row: type[Row]) -> ReconcileFindUnsettled[Row]: ...
@overload
def statement(name: Literal["reconcile/move_position"]) -> ReconcileMovePosition: ...
@overload
def statement(name: Literal["reconcile/read_position"], row: type[Row]) -> ReconcileReadPosition[Row]: ...
@overload
def statement(name: Literal["refunds/add_items"]) -> RefundsAddItems: ...
@overload
def statement(name: Literal["refunds/add_refund"]) -> RefundsAddRefund: ...
@overload
def statement(name: Literal["refunds/add_unmatched"]) -> RefundsAddUnmatched: ...
@overload
def statement(name: Literal["refunds/fail_refund"]) -> RefundsFailRefund: ...
@overload
def statement(name: Literal["refunds/find_order"], row: type[Row]) -> RefundsFindOrder[Row]: ...
@overload
def statement(name: Literal["refunds/list_lines"], row: type[Row]) -> RefundsListLines[Row]: ...
@overload
def statement(name: Literal["refunds/list_refunds"], row: type[Row]) -> RefundsListRefunds[Row]: ...
@overload
def statement(name: Literal["refunds/list_returns"], row: type[Row]) -> RefundsListReturns[Row]: ...
@overload
def statement(name: Literal["refunds/list_unmatched"], row: type[Row]) -> RefundsListUnmatched[Row]: ...
@overload
def statement(name: Literal["refunds/record_refund"]) -> RefundsRecordRefund: ...
@overload
def statement(name: Literal["refunds/return_units"], row: type[Row]) -> RefundsReturnUnits[Row]: ...
@overload
def statement(name: Literal["refunds/set_balance"]) -> RefundsSetBalance: ...
@overload
def statement(name: Literal["refunds/settle_unmatched"], row: type[Row]) -> RefundsSettleUnmatched[Row]: ...
@overload
def statement(name: Literal["retention/delete_carts"]) -> RetentionDeleteCarts: ...
@overload
def statement(name: Literal["retention/delete_deliveries"]) -> RetentionDeleteDeliveries: ...
@overload
def statement(name: Literal["retention/delete_endpoints"]) -> RetentionDeleteEndpoints: ...
@overload
def statement(name: Literal["retention/delete_events"]) -> RetentionDeleteEvents: ...
@overload
def statement(name: Literal["retention/delete_keys"]) -> RetentionDeleteKeys: ...
@overload
def statement(name: Literal["retention/delete_unsent"]) -> RetentionDeleteUnsent: ...
@overload
def statement(name: Literal["retention/list_off_endpoints"], row: type[Row]) -> RetentionListOffEndpoints[Row]: ...
@overload
def statement(name: Literal["search/count_matches"], row: type[Row]) -> SearchCountMatches[Row]: ...
@overload
def statement(name: Literal["search/find_language"], row: type[Row]) -> SearchFindLanguage[Row]: ...
@overload
def statement(name: Literal["search/find_similar"], row: type[Row]) -> SearchFindSimilar[Row]: ...
@overload
def statement(name: Literal["search/find_stale"], row: type[Row]) -> SearchFindStale[Row]: ...
@overload
def statement(name: Literal["search/index_products"]) -> SearchIndexProducts: ...
@overload
def statement(name: Literal["search/match_prices"], row: type[Row]) -> SearchMatchPrices[Row]: ...
@overload
def statement(name: Literal["search/match_words"], row: type[Row]) -> SearchMatchWords[Row]: ...
@overload
def statement(name: Literal["search/split_query"], row: type[Row]) -> SearchSplitQuery[Row]: ...
@overload
def statement(name: Literal["search/walk_name"], row: type[Row]) -> SearchWalkName[Row]: ...
@overload
def statement(name: Literal["search/walk_newest"], row: type[Row]) -> SearchWalkNewest[Row]: ...
@overload
def statement(name: Literal["search/walk_price"], row: type[Row]) -> SearchWalkPrice[Row]: ...
@overload
def statement(name: Literal["search/walk_price_down"], row: type[Row]) -> SearchWalkPriceDown[Row]: ...
@overload
def statement(name: Literal["seed/add_category"], row: type[Row]) -> SeedAddCategory[Row]: ...
@overload
def statement(name: Literal["seed/add_products"]) -> SeedAddProducts: ...
@overload
def statement(name: Literal["seed/find_newest_product"], row: type[Row]) -> SeedFindNewestProduct[Row]: ...
@overload
def statement(name: Literal["settlement/cart_has_live_order"], row: type[Row]) -> SettlementCartHasLiveOrder[Row]: ...
@overload
def statement(name: Literal["settlement/mark_processing"], row: type[Row]) -> SettlementMarkProcessing[Row]: ...
@overload
def statement(name: Literal["settlement/record_late_payment"], row: type[Row]) -> SettlementRecordLatePayment[Row]: ...
@overload
def statement(name: Literal["settlement/replace_cart"], row: type[Row]) -> SettlementReplaceCart[Row]: ...
@overload
def statement(name: Literal["settlement/restore_cart"]) -> SettlementRestoreCart: ...
@overload
def statement(name: Literal["settlement/retake_stock"], row: type[Row]) -> SettlementRetakeStock[Row]: ...
@overload
def statement(name: Literal["settlement/store_shipping"]) -> SettlementStoreShipping: ...
@overload
def statement(name: Literal["stuck/add_item"], row: type[Row]) -> StuckAddItem[Row]: ...
@overload
def statement(name: Literal["stuck/count_items"], row: type[Row]) -> StuckCountItems[Row]: ...
@overload
def statement(name: Literal["stuck/end_items"]) -> StuckEndItems: ...
@overload
def statement(name: Literal["stuck/find_item"], row: type[Row]) -> StuckFindItem[Row]: ...
@overload
def statement(name: Literal["stuck/find_open_refunds"], row: type[Row]) -> StuckFindOpenRefunds[Row]: ...
@overload
def statement(name: Literal["stuck/find_unhandled_events"], row: type[Row]) -> StuckFindUnhandledEvents[Row]: ...
@overload
def statement(name: Literal["stuck/list_items"], row: type[Row]) -> StuckListItems[Row]: ...
@overload
def statement(name: Literal["stuck/list_items_of_kind"], row: type[Row]) -> StuckListItemsOfKind[Row]: ...
@overload
def statement(name: Literal["stuck/list_resolved"], row: type[Row]) -> StuckListResolved[Row]: ...
@overload
def statement(name: Literal["stuck/resolve_item"]) -> StuckResolveItem: ...
@overload
def statement(name: Literal["sweep/claim_events"], row: type[Row]) -> SweepClaimEvents[Row]: ...
@overload
def statement(name: Literal["sweep/claim_orders"], row: type[Row]) -> SweepClaimOrders[Row]: ...
@overload
def statement(name: Literal["sweep/claim_refunds"], row: type[Row]) -> SweepClaimRefunds[Row]: ...
@overload
def statement(name: Literal["sweep/claim_unmatched"], row: type[Row]) -> SweepClaimUnmatched[Row]: ...
@overload
def statement(name: Literal["sweep/measure_backlog"], row: type[Row]) -> SweepMeasureBacklog[Row]: ...
@overload
def statement(name: Literal["transitions/add_note"]) -> TransitionsAddNote: ...
@overload
def statement(name: Literal["transitions/lock_order"], row: type[Row]) -> TransitionsLockOrder[Row]: ...
@overload
def statement(name: Literal["transitions/lock_orders"], row: type[Row]) -> TransitionsLockOrders[Row]: ...
@overload
def statement(name: Literal["transitions/lock_products"], row: type[Row]) -> TransitionsLockProducts[Row]: ...
@overload
def statement(name: Literal["transitions/mark_cancelled"], row: type[Row]) -> TransitionsMarkCancelled[Row]: ...
@overload
def statement(name: Literal["transitions/mark_paid"], row: type[Row]) -> TransitionsMarkPaid[Row]: ...
@overload
def statement(name: Literal["transitions/return_stock"], row: type[Row]) -> TransitionsReturnStock[Row]: ...
@overload
def statement(name: Literal["webhooks/finish_event"]) -> WebhooksFinishEvent: ...
@overload
def statement(name: Literal["webhooks/read_event"], row: type[Row]) -> WebhooksReadEvent[Row]: ...
@overload
def statement(name: Literal["webhooks/record_event"], row: type[Row]) -> WebhooksRecordEvent[Row]: ...
@overload
def statement(name: Literal["webhooks/store_event"]) -> WebhooksStoreEvent: ...
