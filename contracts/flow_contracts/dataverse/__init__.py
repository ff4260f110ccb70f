"""Native Dataverse messages: a `RemoteExecutionContext` in JSON, and the request that results from it."""

from flow_contracts.dataverse.context import ExecutionContext

__all__ = ["ExecutionContext"]
