"""Networks that have query and candidate in sight together."""
