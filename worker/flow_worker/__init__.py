"""The worker: receives flow requests from Service Bus, calls the flows and publishes one result for each request."""
