"""The HTTP gateway: takes requests over HTTP, and hands each result to the owner of its request only."""
