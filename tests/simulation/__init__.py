"""The real engine, policy and ledger under a virtual clock, against a simulated service and disk, from a seed."""
