"""The worker: takes flow-invocation requests from Service Bus, runs the flow, publishes the one result."""
