"""One module a group of rows, by the name that ``--only`` takes; each offers ``rows(bench)``.

``rows(bench: Bench) -> Iterator[Row]`` yields each row as soon as it is measured, its peers' beside it. What it needs
of folders, sandboxes, certificates and measured commands it gets from the ``Bench``; peers are scripts in ``peers/``,
started as commands like everything that is measured. With ``bench.quick`` it does a fraction of the work, in seconds.
"""
