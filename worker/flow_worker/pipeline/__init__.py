"""The journey of one request from its message to its outcome, without Service Bus and HTTP."""
