"""The Web API of Dataverse: one client for everything that the worker asks or writes there."""
