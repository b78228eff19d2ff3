"""The tests, by what they cost: unit, integration, acceptance."""
