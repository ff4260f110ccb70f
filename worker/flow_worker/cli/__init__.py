"""What people do by hand: look after dead letters, and read one request's story."""
