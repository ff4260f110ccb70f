"""The queues of a namespace, and the parts that a queue consists of. They know no AMQP connection."""
