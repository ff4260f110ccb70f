"""Delivers the states of requests to sinks beside the reply queue, from an outbox in the journal's store."""
