"""An Azure emulator: Service Bus over AMQP 1.0, managed identity, a token issuer, Dataverse, HTTP-triggered flows."""
