"""The settings that belong to one kind of sink: `dataverse_row`, or `in_app_notification`."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from flow_worker.settings.groups import _Group

RowField = Literal[
    "name",
    "message_id",
    "correlation_id",
    "flow",
    "status",
    "code",
    "message",
    "output",
    "output_type",
    "output_encoding",
    "http_status",
    "attempts",
    "note",
    "run_id",
    "run_url",
    "asker",
    "replayed_as",
    "accepted_on",
    "finished_on",
    "settled_by",
]
EndStatus = Literal["succeeded", "failed", "refused", "unknown", "expired"]
RowStatus = Literal["pending", "succeeded", "failed", "refused", "unknown", "expired"]
TEXT_FIELDS = ("flow", "status", "code", "message", "correlation_id")
"""The names that a title or a body may contain in braces."""

_MAX_COLUMN_CHARACTERS = 1_048_576
"""The longest text column of Dataverse."""


def _check_text(text: str) -> str:
    """Refuse a name in braces that no result has: the notification would show the braces."""
    try:
        fields = [field for _, field, form, conversion in Formatter().parse(text) if field is not None or form]
        plain = all(not form and not conversion for _, _, form, conversion in Formatter().parse(text))
    except ValueError:
        fields, plain = ["?"], False
    if not plain or not set(fields) <= set(TEXT_FIELDS):
        known = ", ".join(f"{{{name}}}" for name in TEXT_FIELDS)
        raise ValueError(f"may contain only these names in braces: {known}; write {{{{ for a brace")
    return text


_SYSTEM_COLUMNS = frozenset(
    {
        *("createdby", "createdon", "createdonbehalfby", "modifiedby", "modifiedon", "modifiedonbehalfby"),
        *("ownerid", "owningbusinessunit", "owningteam", "owninguser", "statecode", "statuscode", "versionnumber"),
        *("importsequencenumber", "overriddencreatedon", "timezoneruleversionnumber", "utcconversiontimezonecode"),
    }
)
"""The columns of every custom table (Microsoft Learn, "Table columns")."""
LogicalName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,127}$")]
_Text = Annotated[str, AfterValidator(_check_text)]


class RowSinkFields(_Group):
    """The settings of a sink of the kind `dataverse_row`."""

    publisher_prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{1,7}$")] = "new"
    table: LogicalName | None = Field(default=None, description="default: the prefix with _flowrequest")
    entity_set: LogicalName | None = Field(default=None, description="default: the table's name with an s")
    columns: dict[RowField, LogicalName | Literal[""]] = Field(
        default_factory=dict, description="the column of each field; empty: no column"
    )
    status_choices: dict[RowStatus, int] = Field(default_factory=dict, description="default: the status as text")
    max_output_characters: Annotated[int, Field(ge=0, le=_MAX_COLUMN_CHARACTERS)] = _MAX_COLUMN_CHARACTERS
    write_pending: bool = True
    impersonate: bool = True
    without_impersonation: Literal["retry", "own"] = "retry"

    @property
    def table_name(self) -> str:
        """The table's logical name."""
        return self.table or f"{self.publisher_prefix}_flowrequest"

    @property
    def set_name(self) -> str:
        """The table's name in URLs."""
        return self.entity_set or f"{self.table_name}s"

    @property
    def column_names(self) -> dict[RowField, str]:
        """The logical name of each column. A field without a column is not in it."""
        fields: tuple[RowField, ...] = get_args(RowField)
        default = {field: f"{self.publisher_prefix}_{field.replace('_', '')}" for field in fields}
        return {field: column for field, column in (default | self.columns).items() if column}


class NotificationSinkFields(_Group):
    """The settings of a sink of the kind `in_app_notification`."""

    statuses: Annotated[tuple[EndStatus, ...], Field(min_length=1)] = get_args(EndStatus)
    titles: dict[EndStatus, Annotated[_Text, Field(min_length=1, max_length=100)]] = Field(
        default_factory=dict, description="by status"
    )
    bodies: dict[EndStatus, Annotated[_Text, Field(max_length=500)]] = Field(
        default_factory=dict, description="by status"
    )
    toast: Literal["timed", "hidden"] = "timed"
    time_to_live_seconds: Annotated[int, Field(ge=60, le=366 * 86_400)] = 14 * 86_400
    opens: str | None = Field(default=None, description="the sink of the kind dataverse_row whose row it opens")
    action_title: Annotated[str, Field(min_length=1, max_length=50)] = "Open"


def kind_faults(kind: str, names: set[str]) -> str | None:
    """Return what is wrong with the names of a sink's own settings: some may belong to the other kind."""
    foreign = NotificationSinkFields if kind == "dataverse_row" else RowSinkFields
    if wrong := sorted(names & foreign.model_fields.keys()):
        return f"{', '.join(wrong)}: not for the kind '{kind}'; remove it, or correct kind"
    return None


def row_faults(row: RowSinkFields) -> str | None:
    """Return what is wrong with the settings of a row."""
    columns = list(row.column_names.values())
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        return f"columns: {', '.join(twice)} would get two values; name another column"
    if own := sorted(_SYSTEM_COLUMNS.union({f"{row.table_name}id"}).intersection(columns)):
        return f"columns: Dataverse itself sets {', '.join(own)}; name a column of your own"
    if "status" not in row.column_names:
        return "columns.status is empty, and a row without its status tells nothing; name a column"
    missing = [status for status in get_args(RowStatus) if status not in row.status_choices]
    if row.status_choices and missing:
        return f"status_choices lacks {', '.join(missing)}; give each status its choice value"
    return None
