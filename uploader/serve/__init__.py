"""Runs batches from an inbox, for as long as it lives."""
