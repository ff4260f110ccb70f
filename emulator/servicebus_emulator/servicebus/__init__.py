"""The Service Bus dialect: queues and their rules, and how the SDKs speak of them over AMQP."""
