"""Azure on a laptop: a Service Bus that speaks AMQP 1.0, a managed-identity endpoint, a token issuer, HTTP flows."""
