"""What a command line by click costs that does nothing at all."""

import click


@click.command()
@click.option("--limit", default=2, show_default=True, help="how many at once")
@click.argument("manifest", required=False)
def main(manifest: str | None, limit: int) -> None:
    """Do nothing."""
    del manifest, limit


main()
