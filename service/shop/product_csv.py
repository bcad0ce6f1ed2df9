"""Files of products: CSV (RFC 4180) in UTF-8, whose first line names the columns."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, TypeAdapter, ValidationError

from service.shop.money import Currency
from service.shop.product_fields import MAX_STOCK, Description, ImageUrl, MaxPerOrder, Name, Price, Sku
from service.shop.text import MAX_LENGTH, to_nfc

# Of a line, which may be a part of a record. Without a bound, a file without line breaks would be read into memory.
MAX_LINE = 1 << 20
_BOOLEANS = {"true": True, "false": False}


def _number(cell: str) -> str:
    if not re.fullmatch("-?[0-9]{1,12}", cell):
        raise ValueError("must be a whole number in digits")
    return cell


def _boolean(cell: str) -> bool:
    if (value := _BOOLEANS.get(cell.lower())) is None:
        raise ValueError("must be true or false")
    return value


def _nullable(type_: Any) -> Any:
    """The type of a cell that may be empty, which means null."""
    return Annotated[type_ | None, BeforeValidator(lambda cell: cell or None)]


_DIGITS = BeforeValidator(_number)
_Stock = Annotated[int, Field(ge=0, le=MAX_STOCK), _DIGITS]
_Delta = Annotated[int, Field(ge=-MAX_STOCK, le=MAX_STOCK), _DIGITS]
# A slug to look for.
_Category = Annotated[str, StringConstraints(max_length=MAX_LENGTH, pattern=r"^[^\x00]*$"), AfterValidator(to_nfc)]

# The columns, in the order of `export`, and what their cells may be: the rules of the HTTP API.
COLUMNS: dict[str, Any] = {
    "sku": Sku,
    "name": Name,
    "description": Description,
    "category": _nullable(_Category),
    "price_minor": Annotated[Price, _DIGITS],
    "currency": Currency,
    "active": Annotated[bool, BeforeValidator(_boolean)],
    "max_per_order": _nullable(Annotated[MaxPerOrder, _DIGITS]),
    "image_url": _nullable(ImageUrl),
    "stock": _nullable(_Stock),
    "stock_delta": _nullable(_Delta),
}


@dataclass(slots=True)
class Problem:
    """What is wrong with a line of a file, or with one of its columns. The line is the record's first; 1 the header."""

    line: int
    column: str | None
    message: str

    def __str__(self) -> str:
        return f"line {self.line}{f', {self.column}' if self.column else ''}: {self.message}"


@dataclass(slots=True)
class Chunk:
    """Consecutive records: the valid ones, each its line and its cells by column; and what is wrong with others."""

    records: list[tuple[Any, ...]]
    problems: list[Problem]


class InvalidHeader(Exception):
    """The first line does not name columns; its problem."""

    def __init__(self, message: str) -> None:
        super().__init__(str(Problem(1, None, message)))


class Reader:
    """Reads a file of products by chunks of records. Raises InvalidHeader."""

    def __init__(self, file: BufferedReader) -> None:
        # Bytes that are not UTF-8 become lone surrogates, which the types refuse: so the error names line and column.
        self._text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._rows = csv.reader(_lines(self._text), strict=True)
        self.columns = self._read_header()
        types = tuple(COLUMNS[column] for column in self.columns)
        self._type = TypeAdapter(list[tuple[types]])  # type: ignore[valid-type]

    def _read_header(self) -> list[str]:
        try:
            columns = next(self._rows, [])
        except csv.Error as error:
            raise InvalidHeader(str(error)) from None
        expected = f"the columns are {', '.join(COLUMNS)}, with commas between"
        if unknown := [column for column in columns if column not in COLUMNS]:
            raise InvalidHeader(f"{unknown[0][:50]!a} is no column; {expected}")
        if len({*columns}) < len(columns):
            raise InvalidHeader("a column is named twice")
        if "sku" not in columns:
            raise InvalidHeader(f"the column sku is missing; {expected}")
        return columns

    def detach(self) -> None:
        """Leave the file open: otherwise it is closed with this reader."""
        self._text.detach()

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All records, `size` at a time."""
        while True:
            rows, problems, is_last = self._read_rows(size)
            lines, cells = [line for line, _ in rows], [row for _, row in rows]
            try:
                valid = self._type.validate_python(cells)
            except ValidationError as error:
                refused = set()
                for one in error.errors(include_url=False, include_context=False):
                    row, column = one["loc"][:2]
                    refused.add(row)
                    problems.append(Problem(lines[int(row)], self.columns[int(column)], _message(one)))
                lines = [line for number, line in enumerate(lines) if number not in refused]
                valid = self._type.validate_python([row for number, row in enumerate(cells) if number not in refused])
            yield Chunk([(line, *record) for line, record in zip(lines, valid, strict=True)], problems)
            if is_last:
                return

    def _read_rows(self, size: int) -> tuple[list[tuple[int, list[str]]], list[Problem], bool]:
        rows: list[tuple[int, list[str]]] = []
        problems: list[Problem] = []
        while len(rows) < size:
            line = self._rows.line_num + 1
            try:
                row = next(self._rows)
            except StopIteration:
                return rows, problems, True
            except csv.Error as error:
                # Where the next record begins is not known.
                problems.append(Problem(line, None, f"{error}; is a quotation mark missing?"))
                return rows, problems, True
            if len(row) == len(self.columns):
                rows.append((line, row))
            elif row:
                problems.append(Problem(line, None, f"has {len(row)} cells instead of {len(self.columns)}"))
        return rows, problems, False


def _message(error: Any) -> str:
    if error["type"] == "string_unicode":
        return "must be UTF-8"
    return str(error["msg"]).removeprefix("Value error, ")


def _lines(text: TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise csv.Error(f"the line has {MAX_LINE:,} characters or more")
        yield line
