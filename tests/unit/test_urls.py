"""Addresses of remote audio: which they are, and what of them may be shown."""

import pytest

from uploader.urls import StoredObject, check, is_remote, shown, stored_object, without_signature

SIGNED = "https://store.example/a%20b.wav?X-Amz-Signature=0123456789abcdef&x=1"


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("s3://bucket/a.wav", True),
        ("gs://bucket/a.wav", True),
        ("az://container/a.wav", True),
        ("https://host/a.wav", True),
        ("HTTPS://host/a.wav", True),
        ("http://127.0.0.1/a.wav", True),
        ("ftp://host/a.wav", False),
        ("file:///a.wav", False),
        ("/data/s3://bucket/a.wav", False),
        ("a.wav", False),
        ("s3:/bucket/a.wav", False),
    ],
)
def test_an_address_is_told_from_a_path(path: str, remote: bool) -> None:
    """The schemes of the contract alone make an address; everything else is a path of this machine."""
    assert is_remote(path) is remote


def test_what_may_be_a_secret_is_not_shown() -> None:
    """A query may be a signature, and a login is one: neither is shown; a path of this machine is shown as it is."""
    assert shown(SIGNED) == "https://store.example/a%20b.wav?…"
    assert shown("https://user:password@host/a.wav#part") == "https://…@host/a.wav?…"
    assert shown("s3://bucket/a.wav") == "s3://bucket/a.wav"
    assert shown("calls/why?.wav") == "calls/why?.wav"


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (
            "https://b.s3.amazonaws.com/a.wav?X-Amz-Date=1&X-Amz-Signature=2&versionId=3",
            "https://b.s3.amazonaws.com/a.wav?versionId=3",
        ),
        (
            "https://storage.googleapis.com/b/a.wav?X-Goog-Expires=9&X-Goog-Signature=2",
            "https://storage.googleapis.com/b/a.wav",
        ),
        (
            "https://x.blob.core.windows.net/c/a.wav?sv=1&se=2&sr=b&sp=r&sig=x%3D",
            "https://x.blob.core.windows.net/c/a.wav",
        ),
        (
            "https://d.cloudfront.net/a.wav?Policy=p&Signature=s&Key-Pair-Id=k&size=1",
            "https://d.cloudfront.net/a.wav?size=1",
        ),
        ("https://pbx.example/export?call=17&st=2", "https://pbx.example/export?call=17&st=2"),
        ("https://pbx.example/export?expires=17", "https://pbx.example/export?expires=17"),
        ("s3://bucket/why?.wav", "s3://bucket/why?.wav"),
        ("calls/why?sig=1.wav", "calls/why?sig=1.wav"),
    ],
)
def test_a_signature_is_no_part_of_the_place(address: str, place: str) -> None:
    """What clouds sign with goes; what may choose the content stays, whatever it is called."""
    assert without_signature(address) == place


def test_the_key_of_an_object_is_taken_as_it_is_written() -> None:
    """Nothing in a key is decoded: the stores' own tools write keys so, too."""
    assert stored_object("s3://bucket/a b/ü%20#?.wav") == StoredObject("s3", "bucket", "a b/ü%20#?.wav")
    assert stored_object("AZ://container/x") == StoredObject("az", "container", "x")
    assert stored_object(SIGNED) is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket", "names no object"),
        ("s3:///a.wav", "names no object"),
        ("gs://bucket/a//b.wav", "between slashes"),
        ("az://container/../a.wav", "between slashes"),
        ("https:///a.wav", "this is no address"),
        ("https://host:port/a.wav", "this is no address"),
        ("https://host/a b.wav", "this is no address"),
        ("https://user:password@host/a.wav", "login"),
        ("https://host/a.wav#t=1", "fragment"),
        ("http://host/a.wav", "https://"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_with_its_remedy(address: str, said: str) -> None:
    """The text says what to do, and repeats nothing of the address that may be secret."""
    with pytest.raises(ValueError, match=said) as raised:
        check(address)
    assert "password" not in str(raised.value)


def test_an_address_that_can_be_read_passes() -> None:
    """Http is for this machine alone."""
    for address in (
        SIGNED,
        "http://localhost:8080/a.wav",
        "http://127.0.0.1/a.wav",
        "s3://bucket/k",
        "gs://b/k",
        "az://c/k",
    ):
        check(address)
