"""Laws that hold for whatever comes: drawn, not chosen."""
