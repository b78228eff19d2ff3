"""Settings of several accounts: each has its own base URL, limit and credentials, from every source of settings."""

from pathlib import Path
from typing import Any

import pytest

from uploader.client import Credentials
from uploader.errors import UsageError
from uploader.run.target import credentials
from uploader.settings import Settings
from uploader.settings.loading import load

SECRET = "do-not-tell-anybody"
NORTH = 'limit = 4\n[accounts.north]\nlimit = 7\nbase_url = "https://north.example.com"\n[accounts.South-2]\n'


@pytest.fixture
def folder(bare_place: Path) -> Path:
    """The secrets folder."""
    return bare_place / "secrets"


def from_file(tmp_path: Path, text: str) -> Settings:
    """Load a config file of this text."""
    path = tmp_path / "uploader.toml"
    path.write_text(text, encoding="utf-8")
    return load({}, path)


def refusal(tmp_path: Path, text: str) -> str:
    """Return the message on a config file of this text."""
    with pytest.raises(UsageError) as refused:
        from_file(tmp_path, text)
    return str(refused.value)


@pytest.mark.usefixtures("folder")
def test_an_account_has_its_own_settings_and_else_the_general_ones(tmp_path: Path) -> None:
    """Base URL and limit are the account's where it has them; all else, and what it lacks, is set above all tables."""
    settings = from_file(tmp_path, NORTH)
    north, south = settings.of_account("north"), settings.of_account("South-2")
    assert (north.account, north.base_url, north.limit) == ("north", "https://north.example.com", 7)
    assert (south.account, south.base_url, south.limit) == ("South-2", "https://api.symbl.ai", 4)
    assert settings.of_account("") is settings


def test_credentials_of_an_account_come_from_variables_files_and_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source of secrets has a place for each account; no account uses another's credentials."""
    monkeypatch.setenv("UPLOADER_APP_ID", "general")
    monkeypatch.setenv("UPLOADER_APP_SECRET", "general secret")
    monkeypatch.setenv("UPLOADER_ACCOUNTS__NORTH__APP_ID", "id of north")
    named = tmp_path / "north-secret"
    named.write_text("secret of north\n")
    monkeypatch.setenv("UPLOADER_ACCOUNTS__NORTH__APP_SECRET_FILE", str(named))
    (folder / "uploader_accounts__south_2__access_token").write_text("token-of-south")
    settings = from_file(tmp_path, NORTH)
    assert credentials(settings).read() == Credentials("general", "general secret")
    assert credentials(settings.of_account("north")).read() == Credentials("id of north", "secret of north")
    assert credentials(settings.of_account("South-2")).read() == Credentials("", "", "token-of-south")
    named.write_text("rotated")
    assert credentials(settings.of_account("north")).read() == Credentials("id of north", "rotated")
    (folder / "uploader_accounts__south_2__access_token").unlink()
    with pytest.raises(UsageError, match="account South-2: no credentials: set UPLOADER_ACCOUNTS__SOUTH_2__APP_ID"):
        credentials(from_file(tmp_path, NORTH).of_account("South-2"))


@pytest.mark.usefixtures("folder")
def test_a_config_file_may_hold_an_accounts_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand in the account's table; a variable outranks them, and no repr shows them."""
    text = f'[accounts.north]\napp_id = "an id"\napp_secret = "{SECRET}"\n'
    settings = from_file(tmp_path, text)
    assert credentials(settings.of_account("north")).read() == Credentials("an id", SECRET)
    assert SECRET not in repr(settings) + repr(settings.of_account("north"))
    monkeypatch.setenv("UPLOADER_ACCOUNTS__NORTH__ACCESS_TOKEN", "a-token")
    assert credentials(from_file(tmp_path, text).of_account("north")).read().access_token == "a-token"


@pytest.mark.usefixtures("folder")
def test_an_account_may_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit in a variable makes the account; so does a JSON table of accounts."""
    monkeypatch.setenv("UPLOADER_ACCOUNTS__NORTH__LIMIT", "3")
    assert load({}, None).of_account("north").limit == 3
    monkeypatch.setenv("UPLOADER_ACCOUNTS", '{"West-1": {"limit": 5}}')
    monkeypatch.setenv("UPLOADER_ACCOUNTS__WEST_1__LIMIT", "6")
    assert load({}, None).of_account("West-1").limit == 6


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[accounts.north]\nlimit = 0\n", ("line 2", "accounts.north.limit = 0", "1")),
        ("[accounts.north]\nrate = 3\n", ("accounts.north.rate: no such setting",)),
        ("[accounts.north]\nlimi = 3\n", ("did you mean limit?",)),
        ('[accounts."no rth"]\nlimit = 3\n', ("'no rth'", "letters, digits, - and _ alone", "rename it")),
        ("[accounts.default]\nlimit = 3\n", ("above all tables",)),
        ("[accounts.a-b]\n[accounts.a_b]\n", ("same name as the account a-b", "rename one")),
        ("[accounts]\nnorth = 3\n", ("line 2", "write a table of keys and values")),
        (f'[accounts.north]\napp_secret = ["{SECRET}"]\n', ("line 2", "accounts.north.app_secret")),
    ],
)
def test_a_wrong_account_is_told_with_its_place_and_remedy(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    """The message names file, line, key, value and remedy; a secret's value is left out."""
    message = refusal(tmp_path, text)
    assert [word for word in ("config file", *words) if word not in message] == []
    assert SECRET not in message


@pytest.mark.usefixtures("folder")
def test_a_program_may_give_accounts_as_mappings() -> None:
    """They are checked as those of a file: a value or name that does not fit is told with its place."""
    given: dict[str, Any] = {"limit": 2, "accounts": {"north": {"limit": 7}}}
    settings = Settings(**given)
    assert settings.of_account("north").limit == 7
    assert [own.account_name for own in settings.of_accounts] == ["default", "north"]
    wrong: list[tuple[Any, str]] = [({"north": {"limit": 0}}, "accounts.north.limit = 0"), ({"no rth": {}}, "'no rth'")]
    for accounts, words in wrong:
        with pytest.raises(UsageError, match=words):
            Settings(accounts=accounts)
