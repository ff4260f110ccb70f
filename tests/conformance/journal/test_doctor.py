"""What `flow-worker doctor` says about a journal in a table."""

from __future__ import annotations

import re
from typing import Any

import pytest
from azure.data.tables.aio import TableClient
from pydantic import SecretStr

from flow_worker.demo.processes import free_port
from flow_worker.doctor import journal
from flow_worker.doctor.finding import Outcome, Result
from flow_worker.settings import JournalSettings, Settings
from tests.conformance.journal.conftest import Place, table_place
from tests.support.azurite import Azurite, connection_string

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "random-" * 8


@pytest.fixture
def place(tables: Azurite) -> Place:
    return table_place(tables)


async def checked(place: Place, **changes: Any) -> Result:
    table = place.settings.model_copy(update={"deadline_seconds": 5.0, **changes})
    settings = Settings.model_validate(
        {
            "servicebus": {"namespace": "contoso.servicebus.windows.net"},
            "claims": {"tenants": ["11111111-2222-3333-4444-555555555555"], "audiences": ["api://x"]},
            "flows": {"a": {"url": "https://a.b.environment.api.powerplatform.com/x", "role": "r"}},
            "continuations": {"seal_key": KEY},
            "journal": JournalSettings.model_validate(table.model_dump()),
        }
    )
    [check] = journal.checks(settings)
    assert (check.subject, check.name) == ("journal", f"table {table.table_name}")
    result = await check.run()
    assert isinstance(result, Result)
    return result


async def test_a_table_that_works_is_well_and_keeps_nothing_of_the_check(place: Place) -> None:
    result = await checked(place)
    assert (result.outcome, result.detail) == (Outcome.OK, "a document was written, read, swapped and deleted")
    text = place.settings.table_connection_string
    assert text is not None
    table = TableClient.from_connection_string(text.get_secret_value(), place.settings.table_name)
    async with table:
        assert [entity async for entity in table.list_entities()] == []


async def test_an_unreachable_table_has_failed_with_the_remedy(place: Place) -> None:
    result = await checked(place, table_connection_string=SecretStr(connection_string(free_port())))
    assert result.outcome is Outcome.FAILED
    assert result.remedy
    assert "AccountKey" not in result.detail + result.remedy


async def test_a_wrong_key_has_failed_and_is_not_printed(place: Place, tables: Azurite) -> None:
    wrong = re.sub("AccountKey=[^;]+", "AccountKey=aHVzaGh1c2g=", tables.connection_string)
    result = await checked(place, table_connection_string=SecretStr(wrong))
    assert result.outcome is Outcome.FAILED
    assert result.remedy
    assert "aHVzaGh1c2g" not in result.detail + result.remedy
