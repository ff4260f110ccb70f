"""Service Bus without sockets: queues, their storage, access control, and the AMQP links of clients."""
