"""One run of one batch, as a function of settings that a program can call: `run_batch`."""
