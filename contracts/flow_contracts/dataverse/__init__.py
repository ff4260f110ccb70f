"""Native Dataverse messages: a `RemoteExecutionContext` in JSON, and the request that is made of it."""

from flow_contracts.dataverse.context import ExecutionContext

__all__ = ["ExecutionContext"]
