"""The definitions of Dataverse tables: columns with types and lengths, alternate keys, and the built-in tables.

Source: Microsoft Learn, "appnotification table reference", "flowrun table reference", "systemuser table reference".
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from servicebus_emulator.cloud.fields import Definition

LogicalName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,127}$")]
ColumnType = Literal[
    "String", "Memo", "Integer", "Decimal", "Boolean", "DateTime", "Uniqueidentifier", "Choice", "Lookup"
]
MAX_KEYS = 10
MAX_KEY_COLUMNS = 16
_MAX_STRING = 4000
_MAX_MEMO = 1_048_576
_DEFAULT_LENGTHS = {"String": 100, "Memo": 2000}
_MAX_LENGTHS = {"String": _MAX_STRING, "Memo": _MAX_MEMO}


class ColumnDefinition(Definition):
    """A column of a table."""

    name: LogicalName
    type: ColumnType = "String"
    max_length: int | None = Field(default=None, ge=1, le=_MAX_MEMO)
    """The characters of a String or Memo; None: 100 and 2,000, as Dataverse's designer proposes."""
    minimum: float | None = None
    maximum: float | None = None
    options: tuple[int, ...] = ()
    """The values of a Choice."""
    target: LogicalName | None = None
    """The logical name of the table that a Lookup points to."""
    navigation_property: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
    """The name that `@odata.bind` takes; None: the column's name. Dataverse compares it with its case."""
    required: bool = False
    """`SystemRequired`: a row cannot be created without it."""
    read_only: bool = False
    """Dataverse sets it."""

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        longest = _MAX_LENGTHS.get(self.type)
        if self.max_length is not None and (longest is None or self.max_length > longest):
            raise ValueError("only a String (at most 4000) and a Memo (at most 1048576) have a length")
        if (self.type == "Choice") != bool(self.options):
            raise ValueError("a Choice needs options, and no other column has them")
        if (self.type == "Lookup") != (self.target is not None):
            raise ValueError("a Lookup needs a target, and no other column has one")
        return self

    @property
    def length(self) -> int | None:
        """The greatest number of characters; None for a column that is no text."""
        return self.max_length or _DEFAULT_LENGTHS.get(self.type)

    @property
    def property_name(self) -> str:
        """The name in answers and queries: `_name_value` for a lookup."""
        return f"_{self.name}_value" if self.type == "Lookup" else self.name

    @property
    def bind_name(self) -> str:
        """The name before `@odata.bind`."""
        return self.navigation_property or self.name


class TableDefinition(Definition):
    """A table of the organization."""

    logical_name: LogicalName
    set_name: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,127}$")
    """The entity set: the table's name in URLs."""
    primary_id: LogicalName | None = None
    """The column of the row's ID; None: the logical name and `id`."""
    privilege_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]+$")
    """The table's name in privileges: `prvCreate` and this name; None: the logical name."""
    columns: tuple[ColumnDefinition, ...] = ()
    keys: dict[str, tuple[LogicalName, ...]] = Field(default_factory=dict, max_length=MAX_KEYS)
    """The columns of each alternate key."""
    elastic: bool = False
    """An elastic table: it compares text with its case, and has `partitionid` and `ttlinseconds`."""

    @model_validator(mode="after")
    def _columns_are_known(self) -> Self:
        names = [column.name for column in self.columns]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"there are two columns named '{duplicates[0]}'")
        for key, columns in self.keys.items():
            if not 1 <= len(columns) <= MAX_KEY_COLUMNS:
                raise ValueError(f"the key '{key}' needs 1 to {MAX_KEY_COLUMNS} columns")
            if unknown := set(columns) - set(names):
                raise ValueError(f"the key '{key}' has the unknown column '{min(unknown)}'")
        return self

    @property
    def id_column(self) -> str:
        """The name of the column with the row's ID."""
        return self.primary_id or f"{self.logical_name}id"


def _column(
    name: str, type_: ColumnType = "String", length: int | None = None, *, required: bool = False
) -> ColumnDefinition:
    return ColumnDefinition(name=name, type=type_, max_length=length, required=required)


def _choice(name: str, first: int, count: int) -> ColumnDefinition:
    return ColumnDefinition(name=name, type="Choice", options=tuple(range(first, first + count)))


_PARTITION = (_column("partitionid"), ColumnDefinition(name="ttlinseconds", type="Integer", minimum=1))

SYSTEM_USERS = TableDefinition(
    logical_name="systemuser",
    set_name="systemusers",
    privilege_name="User",
    columns=(
        _column("fullname", length=200),
        _column("domainname", length=1024),
        _column("azureactivedirectoryobjectid", "Uniqueidentifier"),
        _column("applicationid", "Uniqueidentifier"),
        _column("isdisabled", "Boolean"),
    ),
)
"""The users, read-only: `PUT /emulator/dataverse` defines them."""

APP_NOTIFICATIONS = TableDefinition(
    logical_name="appnotification",
    set_name="appnotifications",
    columns=(
        _column("title", length=256, required=True),
        _column("body", length=500),
        _column("data", "Memo", 5000),
        _choice("icontype", 100_000_000, 6),
        _choice("toasttype", 200_000_000, 2),
        _choice("priority", 200_000_000, 2),
        *_PARTITION,
    ),
    # The reference says "partitioning will be based on owner". It does not say that the table is elastic.
    elastic=True,
)

FLOW_RUNS = TableDefinition(
    logical_name="flowrun",
    set_name="flowruns",
    columns=(
        _column("name"),
        _column("clienttrackingid", length=400),
        # The stored spelling is not documented. The page of the maker portal shows Success, Failed and Cancelled.
        _column("status"),
        _column("starttime", "DateTime"),
        _column("endtime", "DateTime"),
        _column("duration", "Integer"),
        _column("errorcode", length=200),
        _column("errormessage", "Memo", 100_000),
        _column("triggertype"),
        _column("workflowid"),
        _column("parentrunid"),
        _column("isprimary", "Boolean"),
        *_PARTITION,
    ),
    elastic=True,
)

BUILT_IN = (SYSTEM_USERS, APP_NOTIFICATIONS, FLOW_RUNS)
