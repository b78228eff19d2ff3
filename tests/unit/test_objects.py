"""AWS's shared files are read as its own tools read them."""

from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="the extra cloud is not installed")

from uploader.audio.objects import aws_profile


def home(folder: Path, *, credentials: str = "", config: str = "") -> dict[str, str]:
    """Write the shared files of a user."""
    (folder / ".aws").mkdir()
    (folder / ".aws" / "credentials").write_text(credentials, encoding="utf-8")
    (folder / ".aws" / "config").write_text(config, encoding="utf-8")
    return {"HOME": str(folder)}


CREDENTIALS = """
[default]
aws_access_key_id = AKID
aws_secret_access_key = 50%secret
[night]
aws_access_key_id = NIGHT
aws_secret_access_key = other
aws_session_token = token
"""
CONFIG = """
[default]
region = eu-central-1
[profile night]
region = us-west-2
"""


def test_keys_and_region_come_from_the_chosen_profile(tmp_path: Path) -> None:
    """The default one, or AWS_PROFILE's; a % in a secret is no placeholder."""
    environment = home(tmp_path, credentials=CREDENTIALS, config=CONFIG)
    default = {"access_key_id": "AKID", "secret_access_key": "50%secret", "region": "eu-central-1"}
    night = {"access_key_id": "NIGHT", "secret_access_key": "other", "session_token": "token", "region": "us-west-2"}
    assert aws_profile(environment) == default
    assert aws_profile({**environment, "AWS_PROFILE": "night"}) == night
    assert aws_profile({**environment, "AWS_PROFILE": "none"}) == {}


def test_the_environment_outranks_the_shared_files(tmp_path: Path) -> None:
    """Keys of the one are never mixed with a token of the other."""
    environment = home(tmp_path, credentials=CREDENTIALS, config=CONFIG)
    named = {**environment, "AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "mine", "AWS_PROFILE": "night"}
    assert aws_profile(named) == {"region": "us-west-2"}
    assert aws_profile({**named, "AWS_DEFAULT_REGION": "eu-west-1"}) == {}


def test_files_that_are_broken_or_missing_are_passed_over(tmp_path: Path) -> None:
    """The cloud's other sources of credentials are asked then; no content of a file stands in an error."""
    assert aws_profile({"HOME": str(tmp_path / "none")}) == {}
    assert aws_profile(home(tmp_path, credentials="aws_secret_access_key = lost\n")) == {}
    assert aws_profile({}) == {}
