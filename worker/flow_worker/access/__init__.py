"""Authentication and authorisation: authorities prove a request's sender, and rights decide what the sender may do."""
