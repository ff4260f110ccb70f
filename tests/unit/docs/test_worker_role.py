"""The security role of the worker: the file, the page and what `doctor` checks name the same privileges."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from flow_worker.doctor.worker_role import RUN_RECORDS, needed_by
from flow_worker.flows.privilege import Depth
from flow_worker.settings import DeliverySettings
from tests.unit.docs.pages import ROOT, section

FOLDER = ROOT / "deploy" / "dataverse" / "worker-role"
ROLE = FOLDER / "Roles" / "Flow worker.xml"
_LEVELS = {"User": "Basic", "Organization": "Global"}
_ROW = re.compile(r"^\| `(prv\w+)` \| (\w+) \|", re.MULTILINE)


def role() -> ET.Element:
    return ET.fromstring(ROLE.read_text(encoding="utf-8"))  # noqa: S314 - a file of this repository


def privileges_of_the_role() -> dict[str, str]:
    return {each.attrib["name"]: each.attrib["level"] for each in role().iter("RolePrivilege")}


def test_the_page_lists_each_privilege_of_the_role_with_its_depth() -> None:
    listed = _ROW.findall(section("how-to/grant-dataverse-privileges.md", "The privileges of the worker"))
    assert {name: _LEVELS[depth] for name, depth in listed} == privileges_of_the_role()


def test_the_role_holds_what_the_sinks_and_the_queries_need_and_nothing_more() -> None:
    rows = DeliverySettings(kind="dataverse_row", without_impersonation="own")
    needed = [*needed_by(rows), *needed_by(DeliverySettings(kind="in_app_notification"))]
    of_sinks = {each.name: {Depth.BASIC: "Basic", Depth.GLOBAL: "Global"}[each.depth] for each in needed}
    others = {"prvReadUser": "Global", "prvReadRole": "Global", RUN_RECORDS.name: "Global"}
    assert privileges_of_the_role() == of_sinks | others


def test_a_worker_that_owns_its_rows_needs_less() -> None:
    needed = list(needed_by(DeliverySettings(kind="dataverse_row", impersonate=False, table="cr1_answer")))
    assert {each.name for each in needed} == {f"prv{action}cr1_answer" for action in ("Create", "Read", "Write")}
    assert {each.depth for each in needed} == {Depth.BASIC}


def test_the_solution_contains_the_role() -> None:
    solution = ET.fromstring((FOLDER / "Other" / "Solution.xml").read_text(encoding="utf-8"))  # noqa: S314
    (component,) = solution.iter("RootComponent")
    assert (component.attrib["type"], component.attrib["id"]) == ("20", role().attrib["id"])
