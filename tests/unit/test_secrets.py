"""Secrets: where they are found, read again when asked, and never shown."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from uploader import secrets
from uploader.client import Credentials
from uploader.errors import CredentialsError, UsageError
from uploader.run.target import credentials
from uploader.settings.loading import load, unknown_environment

SECRET = "do-not-tell-anybody"

Environment = dict[str, str]


@pytest.fixture
def place(bare_place: Path) -> Path:
    """Provide a folder with an empty secrets folder in it, and an environment that has no secret."""
    return bare_place


Give = Callable[[Path], Environment]
GIVEN: dict[str, Give] = {
    "variable": lambda _: {"UPLOADER_APP_SECRET": SECRET},
    "variable with a line end": lambda _: {"UPLOADER_APP_SECRET": f"{SECRET}\n"},
    "file": lambda place: {"UPLOADER_APP_SECRET_FILE": written(place / "file", f"{SECRET}\n")},
    "file of Windows": lambda place: {"UPLOADER_APP_SECRET_FILE": written(place / "file", f"{SECRET}\r\n")},
    "folder": lambda place: {"_": written(place / "secrets" / "uploader_app_secret", f"{SECRET}\n")},
    "folder, in capitals": lambda place: {"_": written(place / "secrets" / "UPLOADER_APP_SECRET", SECRET)},
}


def written(path: Path, content: str | bytes) -> str:
    """Write a file, and say where it is."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def fifo(path: Path) -> str:
    """Make a named pipe, and say where it is."""
    os.mkfifo(path)
    return str(path)


@pytest.mark.parametrize("way", GIVEN)
def test_a_secret_is_found_wherever_it_may_be(place: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Secrets are read from the environment, from a file that it names, or from the folder, without the line end."""
    for name, value in GIVEN[way](place).items():
        monkeypatch.setenv(name, value)
    assert secrets.find(["app_id", "app_secret"], os.environ) == {"app_secret": SECRET}
    settings = load({}, None)
    assert settings.app_secret is not None
    assert settings.app_secret.get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    assert unknown_environment() == []


def test_the_environment_outranks_a_file_and_that_the_folder(place: Path) -> None:
    """Flag over environment over secrets folder; a variable that is empty is none."""
    written(place / "secrets" / "uploader_app_id", "of the folder")
    environment = {"UPLOADER_SECRETS_DIR": str(place / "secrets"), "UPLOADER_APP_ID": ""}
    assert secrets.find(["app_id"], environment) == {"app_id": "of the folder"}
    environment["UPLOADER_APP_ID_FILE"] = written(place / "file", "of the file")
    assert secrets.find(["app_id"], environment) == {"app_id": "of the file"}
    del environment["UPLOADER_APP_ID_FILE"]
    environment["UPLOADER_APP_ID"] = "of the variable"
    assert secrets.find(["app_id"], environment) == {"app_id": "of the variable"}


def test_the_secrets_of_a_cluster_are_found(place: Path) -> None:
    """Kubernetes mounts each secret as a link over a link, which it turns to the new ones at once."""
    first, second = place / "secrets" / "..2026_11_22", place / "secrets" / "..2026_11_23"
    for folder, value in ((first, "old"), (second, "new")):
        folder.mkdir()
        written(folder / "uploader_app_secret", value)
    data = place / "secrets" / "..data"
    data.symlink_to(first.name)
    (place / "secrets" / "uploader_app_secret").symlink_to("..data/uploader_app_secret")
    environment = {"UPLOADER_SECRETS_DIR": str(place / "secrets")}
    assert secrets.find(["app_secret"], environment) == {"app_secret": "old"}
    data.unlink()
    data.symlink_to(second.name)
    assert secrets.find(["app_secret"], environment) == {"app_secret": "new"}


WRONG: dict[str, tuple[Give, list[str]]] = {
    "no such file": (
        lambda place: {"UPLOADER_APP_SECRET_FILE": str(place / "none")},
        ["UPLOADER_APP_SECRET_FILE", "none", "No such file", "name a file that can be read"],
    ),
    "a folder": (
        lambda place: {"UPLOADER_APP_SECRET_FILE": str(place)},
        ["UPLOADER_APP_SECRET_FILE", "Is a directory", "name a file that can be read"],
    ),
    "a pipe without a writer": (
        lambda place: {"UPLOADER_APP_SECRET_FILE": fifo(place / "pipe")},
        ["UPLOADER_APP_SECRET_FILE", "nobody writes to it", "name a file that can be read"],
    ),
    "an empty file": (
        lambda place: {"UPLOADER_APP_SECRET_FILE": written(place / "file", " \n")},
        ["UPLOADER_APP_SECRET_FILE", "file", "empty"],
    ),
    "no text": (
        lambda place: {"UPLOADER_APP_SECRET_FILE": written(place / "file", SECRET.encode() + b"\xff\xfe")},
        ["UPLOADER_APP_SECRET_FILE", "UTF-8"],
    ),
    "two lines": (
        lambda place: {"UPLOADER_ACCESS_TOKEN_FILE": written(place / "file", f"{SECRET}\n{SECRET}")},
        ["UPLOADER_ACCESS_TOKEN_FILE", "one line"],
    ),
    "a long file": (
        lambda place: {"UPLOADER_APP_ID_FILE": written(place / "file", SECRET * 10_000)},
        ["UPLOADER_APP_ID_FILE", "one line"],
    ),
    "both": (
        lambda place: {"UPLOADER_APP_ID": SECRET, "UPLOADER_APP_ID_FILE": written(place / "file", SECRET)},
        ["UPLOADER_APP_ID:", "UPLOADER_APP_ID_FILE", "unset one"],
    ),
    "empty in the folder": (
        lambda place: {"_": written(place / "secrets" / "uploader_app_id", "\n")},
        ["secrets folder", "uploader_app_id", "empty"],
    ),
    "no folder": (
        lambda place: {"UPLOADER_SECRETS_DIR": str(place / "nowhere")},
        ["UPLOADER_SECRETS_DIR", "nowhere", "name a folder"],
    ),
    "a file in the folder's place": (
        lambda place: {"UPLOADER_SECRETS_DIR": written(place / "file", SECRET)},
        ["UPLOADER_SECRETS_DIR", "file", "name a folder"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_secret_that_cannot_be_read_is_told_without_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """A wrong source is a usage error that names variable, file and remedy, and never the file's content."""
    monkeypatch.setattr("uploader.pipes.PIPE_SECONDS", 0.01)
    give, words = WRONG[case]
    for name, value in give(place).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as message:
        load({}, None)
    assert [word for word in words if word not in str(message.value)] == []
    assert SECRET not in str(message.value)


def test_a_folder_that_nobody_named_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only containers have /run/secrets: elsewhere it is not missed."""
    monkeypatch.setattr(secrets, "FOLDER", tmp_path / "none")
    assert secrets.folder({}) is None
    assert secrets.find(secrets.CREDENTIALS, {}) == {}


BOTH = {"UPLOADER_APP_ID": "i", "UPLOADER_APP_SECRET": "s"}
TOKEN = {"UPLOADER_ACCESS_TOKEN": "t"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        (BOTH, Credentials("i", "s")),
        (TOKEN, Credentials(access_token="t")),
        (BOTH | TOKEN, Credentials("i", "s", "t")),
        (BOTH | {"UPLOADER_ACCESS_TOKEN": ""}, Credentials("i", "s")),
    ],
)
def test_a_ready_token_wins(
    place: Path, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], found: Credentials
) -> None:
    """A ready token outranks the other credentials; an empty one does not count."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert credentials(load({}, None)).read() == found


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["UPLOADER_APP_ID", "UPLOADER_APP_SECRET", "UPLOADER_ACCESS_TOKEN", "--sandbox"]),
        ({"UPLOADER_APP_ID": SECRET}, ["UPLOADER_APP_ID is set", "UPLOADER_APP_SECRET is missing"]),
        ({"UPLOADER_APP_SECRET": SECRET}, ["UPLOADER_APP_SECRET is set", "UPLOADER_APP_ID is missing"]),
    ],
)
def test_what_is_missing_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], words: list[str]
) -> None:
    """Where one of the two credentials is set, the error names the missing one."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as message:
        credentials(load({}, None))
    assert [word for word in words if word not in str(message.value)] == []
    assert SECRET not in str(message.value)


def test_credentials_are_read_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials are read whenever a token is needed, not at the start alone; a lost file is reported."""
    monkeypatch.setenv("UPLOADER_APP_ID", "i")
    path = place / "secret"
    monkeypatch.setenv("UPLOADER_APP_SECRET_FILE", written(path, "old"))
    source = credentials(load({}, None))
    assert source.read() == Credentials("i", "old")
    written(path, "new\n")
    assert source.read() == Credentials("i", "new")
    path.unlink()
    with pytest.raises(CredentialsError, match="UPLOADER_APP_SECRET_FILE"):
        source.read()
    assert "old" not in repr(vars(source))


ADDRESSES = {
    f"postgresql://uploader:{SECRET}@db.example/ledger": "postgresql://…@db.example/ledger",
    f"postgresql://uploader:@/{SECRET}@db.example/ledger": "postgresql://…@db.example/ledger",
    f"postgresql://db.example/ledger?password={SECRET}": "postgresql://db.example/ledger?password=…",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_ledgers_password_is_never_shown(place: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Refused as a flag and in the config file, with the remedy; from elsewhere it is taken, and no repr shows it."""
    config = place / "uploader.toml"
    config.write_text(f'ledger = "{address}"')
    for flags, file in (({"ledger": address}, None), ({}, config)):
        with pytest.raises(UsageError, match=r"UPLOADER_LEDGER_FILE") as message:
            load(flags, file)
        assert SECRET not in str(message.value)
        assert ADDRESSES[address] in str(message.value)
    for name, value in (("UPLOADER_LEDGER", address), ("UPLOADER_LEDGER_FILE", written(place / "url", address))):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            found = load({}, None)
        assert found.ledger == address
        assert SECRET not in repr(found)


def test_a_ledgers_address_may_come_from_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's address may come from a named file or from the secrets folder; a flag outranks both."""
    written(place / "secrets" / "uploader_ledger", "sqlite:////of/the/folder.db\n")
    assert load({}, None).ledger == "sqlite:////of/the/folder.db"
    monkeypatch.setenv("UPLOADER_LEDGER_FILE", written(place / "url", "sqlite:////of/the/file.db\n"))
    assert load({}, None).ledger == "sqlite:////of/the/file.db"
    assert load({"ledger": "sqlite:////of/the/flag.db"}, None).ledger == "sqlite:////of/the/flag.db"


def test_a_password_in_a_base_url_is_not_repeated(place: Path) -> None:
    """An address with a password is refused, and shown without its login."""
    with pytest.raises(UsageError, match="base-url") as message:
        load({"base_url": f"https://user:{SECRET}@host"}, None)
    assert SECRET not in str(message.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("app_id", f'"{SECRET}"', "it stands in quotes"),
        ("app_secret", f"'{SECRET}'", "it stands in quotes"),
        ("app_secret", f"\u201c{SECRET}\u201d", "it stands in quotes"),
        ("access_token", f'"{SECRET}"', "it stands in quotes"),
        ("access_token", f"Bearer {SECRET}", "it begins with 'Bearer'"),
        ("access_token", f"bearer: {SECRET}", "it begins with 'bearer:'"),
        ("access_token", f"Authorization: Bearer {SECRET}", "it begins with 'Authorization: Bearer'"),
        ("access_token", f"{SECRET} {SECRET}", "no token has blanks"),
        ("access_token", f"{SECRET}\u00e9", "letters beyond ASCII"),
        ("app_secret", f"{SECRET}\n{SECRET}", "one line of text"),
    ],
)
@pytest.mark.parametrize("way", ["variable", "file", "folder"])
def test_what_a_copy_brought_along_is_told_and_never_shown(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str, way: str
) -> None:
    """Quotes of an env file, a header's first word, blanks: each has its hint, wherever the secret comes from."""
    if way == "variable":
        monkeypatch.setenv(f"UPLOADER_{name.upper()}", value)
    elif way == "file":
        monkeypatch.setenv(f"UPLOADER_{name.upper()}_FILE", written(place / "file", value))
    else:
        written(place / "secrets" / f"uploader_{name}", value)
    with pytest.raises(UsageError, match=told) as caught:
        load({}, None)
    assert SECRET not in str(caught.value)
