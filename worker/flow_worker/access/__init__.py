"""Who is asking, and may they? Authentication and authorisation, with plain data (`Principal`) between them."""
