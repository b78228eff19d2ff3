"""Remote audio from real servers: a web server that misbehaves, and a store that speaks S3."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tests.integration.servers import authority
from tests.remote_servers import ObjectStore, WebServer
from tests.unit import recordings as made
from uploader import audio
from uploader.audio import RemoteFiles, SourceOpener, fetching
from uploader.audio.fetching import AT_ONCE
from uploader.audio.remote import CONNECT_SECONDS, READ_SECONDS
from uploader.errors import SourceAwayError, SourceError
from uploader.model import AudioFacts, AudioFormat, FileSignature
from uploader.settings import Settings

WAV = made.recording(2.0)
OTHER = made.recording(2.0).replace(b"\0\0", b"\1\1")
LARGE = 4 << 20


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test need not wait as long as a network may take."""
    monkeypatch.setattr(fetching, "RETRY_SECONDS", (0.01, 0.01))


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server on loopback."""
    with WebServer() as server:
        yield server


@pytest.fixture
async def opener() -> AsyncIterator[SourceOpener]:
    """What opens sources for uploads."""
    async with SourceOpener() as made_opener:
        yield made_opener


async def content(opener: SourceOpener, address: str, found: FileSignature) -> tuple[bytes, str]:
    """Read a source as an upload does; return its content, and the hash that was taken."""
    async with opener.open(address, found.size, found.change) as source:
        whole = b"".join([bytes(chunk) async for chunk in source.chunks(64 * 1024)])
        return whole, source.verified_hash()


async def examined(address: str) -> tuple[FileSignature, AudioFacts]:
    """Examine a remote file, beside a running loop as a run does."""
    with RemoteFiles() as files:
        return await asyncio.to_thread(files.examine, address)


async def test_a_recording_is_examined_and_streamed(web: WebServer, opener: SourceOpener) -> None:
    """Size, version, media type and duration are known before the attempt; what is sent is what is there."""
    address = web.serve("a b.wav", WAV).replace("a b", "a%20b")
    web.files["a%20b.wav"] = web.files["a b.wav"]
    found, facts = await examined(address)
    assert facts == AudioFacts("audio/wav", 2.0, 1, 8000, AudioFormat.WAV)
    assert await content(opener, address, found) == (WAV, blake3(WAV).hexdigest())
    head, whole = web.asked("a%20b.wav")
    assert head["Range"] == "bytes=0-16383"
    assert whole["If-Match"] == found.change
    assert "identity" in whole["Accept-Encoding"]


async def test_many_are_examined_at_once(web: WebServer) -> None:
    """A manifest of many remote rows does not take one round trip each in turn: the server sees them together."""
    addresses = [web.serve(f"{number}.wav", WAV) for number in range(3 * AT_ONCE)]
    # breaks, and fails the requests, unless so many are asked for at once
    web.together = threading.Barrier(AT_ONCE, timeout=30)
    with RemoteFiles() as files:
        for address in addresses:
            files.begin(address)
        sizes = {files.examine(address)[0].size for address in addresses}
    assert sizes == {len(WAV)}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"status": 404}, "the file cannot be found (HTTP 404 Not Found): correct the path or bring it back"),
        ({"status": 403}, "the file cannot be read (HTTP 403 Forbidden): give these credentials leave to read it"),
        ({"status": 401}, "the file cannot be read (HTTP 401 Unauthorized): give these credentials leave to read it"),
        ({"status": 418}, "the file cannot be read (HTTP 418 I'm a Teapot)"),
        ({"status": 503}, "the file cannot be reached (HTTP 503 Service Unavailable): run again when it can"),
        ({"packed": True}, "the file cannot be read (its server sends it packed: serve it as it is)"),
        ({"sized": False, "ranges": False}, "the server does not say how long the file is (no Content-Length)"),
        (
            {"status": 302, "location": "http://elsewhere.example/a.wav"},
            "redirected to an address that is not followed",
        ),
        ({"status": 302, "location": "/a.wav"}, "more than 5 redirects"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_load_in_words(web: WebServer, how: dict[str, object], said: str) -> None:
    """Each trouble has its own words and remedy, and nothing of the address, whose query may be a secret."""
    address = web.serve("a.wav", WAV, **how)
    with RemoteFiles() as files, pytest.raises(ValueError, match="the ") as raised:
        files.examine(f"{address}?signature=very-secret")
    assert said in str(raised.value)
    assert "very-secret" not in str(raised.value)


def test_an_empty_file_is_refused_at_load(web: WebServer) -> None:
    """With ranges and without: the words are those of a local file."""
    for ranges in (True, False):
        address = web.serve(f"{ranges}.wav", b"", ranges=ranges)
        with RemoteFiles() as files, pytest.raises(ValueError, match="the file is empty: record or copy it anew"):
            files.examine(address)


def test_a_stumble_of_the_network_refuses_nothing(web: WebServer) -> None:
    """What cannot be reached is asked for again before a row is refused."""
    address = web.serve("a.wav", WAV, first=[503, 500])
    with RemoteFiles() as files:
        assert files.examine(address)[0].size == len(WAV)
    assert len(web.asked("a.wav")) == 3


def test_where_nobody_listens_the_file_cannot_be_reached() -> None:
    """No connection is a trouble that passes, and has no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/a.wav"
        with RemoteFiles() as files, pytest.raises(ValueError, match=r"reached \(no connection to its server\)"):
            files.examine(address)


def test_a_server_that_is_away_is_not_waited_for_a_thousand_times(web: WebServer) -> None:
    """Once as many as are asked for at once could not be reached, the others of that server are told so at once."""
    addresses = [web.serve(f"{number}.wav", WAV, status=503) for number in range(4 * AT_ONCE)]
    with RemoteFiles() as files:
        for address in addresses:
            files.begin(address)
        for address in addresses:
            with pytest.raises(ValueError, match="the file cannot be reached"):
                files.examine(address)
        assert len(web.requests) <= 2 * AT_ONCE * (1 + len(fetching.RETRY_SECONDS))
        # another server is asked as ever
        other = web.serve("a.wav", WAV).replace("127.0.0.1", "localhost")
        assert files.examine(other)[0].size == len(WAV)


def test_an_address_beyond_ascii_is_encoded(web: WebServer) -> None:
    """As a browser would; one that is written encoded stays as it is."""
    web.serve("%C3%BC%20b.wav", WAV)
    with RemoteFiles() as files:
        assert files.examine(web.address("ü%20b.wav"))[0].size == len(WAV)
        assert files.examine(web.address("%C3%BC%20b.wav"))[0].size == len(WAV)


def test_this_machine_is_not_asked_through_a_proxy(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy would look for the recording on itself."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with RemoteFiles() as files:
        assert files.examine(web.serve("a.wav", WAV))[0].size == len(WAV)


@pytest.mark.parametrize(("status", "said"), [(407, "the proxy refused to connect, HTTP 407"), (None, "the proxy")])
def test_a_proxy_in_the_way_is_named(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, status: int | None, said: str
) -> None:
    """One that refuses, and one that is not there: neither is taken for the recording's server."""
    proxy = web.address("").rstrip("/")
    if status is None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            proxy = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with RemoteFiles() as files, pytest.raises(ValueError, match=said):
        files.examine("https://recordings.example/a.wav")


async def test_a_redirect_is_followed(web: WebServer, opener: SourceOpener) -> None:
    """To another place of https, or of this machine; what counts is the file at its end."""
    web.serve("real.wav", WAV)
    address = web.serve("short", b"", status=302, location="/real.wav")
    found, _ = await examined(address)
    assert await content(opener, address, found) == (WAV, blake3(WAV).hexdigest())


async def test_over_tls_its_certificate_is_checked(
    opener: SourceOpener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of an authority that the system, or SSL_CERT_FILE, trusts; any other server is not read from."""
    trusted = authority(tmp_path)
    with WebServer(trusted.tls()) as server:
        address = server.serve("a.wav", WAV)
        assert address.startswith("https://")
        with pytest.raises(ValueError, match="certificate is not trusted"):
            await examined(address)
        assert not server.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted.bundle))
        found, _ = await examined(address)
        assert await content(opener, address, found) == (WAV, blake3(WAV).hexdigest())


@pytest.mark.parametrize("guards", [True, False], ids=["If-Match is heeded", "If-Match is ignored"])
@pytest.mark.parametrize("etag", [True, False], ids=["by its ETag", "by its time"])
async def test_a_file_that_changed_since_the_load_is_refused(
    web: WebServer, opener: SourceOpener, *, guards: bool, etag: bool
) -> None:
    """Another content of the same size, and one of another size: neither is sent in place of what was checked."""
    address = web.serve("a.wav", WAV, etag=etag)
    found, _ = await examined(address)
    web.serve("a.wav", OTHER + b"\0\0", etag=etag, guards=guards)
    with pytest.raises(SourceError, match="the file changed since its manifest was checked"):
        await content(opener, address, found)
    if etag:
        web.serve("a.wav", OTHER, guards=guards)
        with pytest.raises(SourceError, match="changed since its manifest was checked: run its manifest again"):
            await content(opener, address, found)


async def test_a_file_without_a_version_is_told_by_size_and_content_alone(web: WebServer, opener: SourceOpener) -> None:
    """Two looks at it never count as the same version, so that its hash is asked for; it can be sent all the same."""
    address = web.serve("a.wav", WAV, etag=False, dated=False)
    (first, _), (second, _) = await examined(address), await examined(address)
    assert first.size == second.size
    assert first.change != second.change
    assert await content(opener, address, first) == (WAV, blake3(WAV).hexdigest())


async def test_a_stream_that_is_cut_is_an_error_that_passes(web: WebServer, opener: SourceOpener) -> None:
    """It is never resumed in silence, nor taken for the whole: the attempt ends, and the item is tried again."""
    whole = os.urandom(LARGE)
    address = web.serve("a.wav", whole, cut_after=LARGE // 2)
    found, _ = await examined(address)
    with pytest.raises(SourceAwayError, match="the file could not be read: the connection was cut"):
        await content(opener, address, found)
    assert len([asked for asked in web.asked("a.wav") if "Range" not in asked]) == 1
    web.files["a.wav"].cut_after = None
    assert await content(opener, address, found) == (whole, blake3(whole).hexdigest())


@pytest.mark.parametrize("scheme", ["https", "s3"])
async def test_a_stream_that_stands_still_is_the_sources_trouble(
    web: WebServer, opener: SourceOpener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str
) -> None:
    """It ends before the service would be blamed for an upload of which no byte moves."""
    whole, stalled = WAV + os.urandom(LARGE), threading.Event()
    address = web.serve("recordings/a.wav", whole, cut_after=LARGE // 2, stalled=stalled)
    if scheme == "s3":
        objects = pytest.importorskip("uploader.audio.objects", reason="the extra cloud is not installed")
        monkeypatch.setitem(objects._OPTIONS, "read_timeout", "300ms")
        environment = {"AWS_ENDPOINT_URL": web.address("").rstrip("/"), "HOME": str(tmp_path)}
        for name, value in {**environment, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}.items():
            monkeypatch.setenv(name, value)
        address = "s3://recordings/a.wav"
    monkeypatch.setattr("uploader.audio.web.READ_SECONDS", 0.3)
    found, _ = await examined(address)
    try:
        with pytest.raises(SourceAwayError, match=r"the file could not be read: .* does not answer in time"):
            await content(opener, address, found)
    finally:
        stalled.set()
    assert Settings().stall_seconds > READ_SECONDS + CONNECT_SECONDS


@pytest.mark.parametrize(("status", "kind"), [(404, SourceError), (403, SourceError), (503, SourceAwayError)])
async def test_trouble_at_the_opening_is_told_apart(
    web: WebServer, opener: SourceOpener, status: int, kind: type[SourceError]
) -> None:
    """What is gone or forbidden refuses the item; what may pass has it tried again."""
    address = web.serve("a.wav", WAV)
    found, _ = await examined(address)
    web.files["a.wav"].status = status
    with pytest.raises(SourceError, match=f"the file could not be opened: HTTP {status}") as raised:
        await content(opener, address, found)
    assert type(raised.value) is kind


async def test_no_remote_audio_is_opened_within_an_audio_root(web: WebServer, tmp_path: Path) -> None:
    """A ledger's row may be older than the option: the opening is confined, too."""
    address = web.serve("a.wav", WAV)
    async with SourceOpener(tmp_path) as confined:
        with pytest.raises(SourceError, match="remote audio lies outside the audio root"):
            await content(confined, address, FileSignature(len(WAV), ""))
    assert not web.requests


def test_a_remote_file_is_hashed_for_the_identity_rule(web: WebServer) -> None:
    """The hash is that of a local file of the same content; None where it cannot be read."""
    assert audio.content_hash(web.serve("a.wav", WAV)) == blake3(WAV).hexdigest()
    assert audio.content_hash(web.address("gone.wav")) is None


@pytest.fixture
def s3(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ObjectStore:
    """The store, with its credentials in the environment and none of this machine's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


async def test_an_object_is_examined_and_streamed(s3: ObjectStore, opener: SourceOpener) -> None:
    """Its key is taken as it is written, and a large one comes whole."""
    whole = WAV + os.urandom(LARGE)
    address = s3.put("calls/ü b%20c#?.wav", whole)
    found, facts = await examined(address)
    assert (found.size, facts.media_type) == (len(whole), "audio/wav")
    assert await content(opener, address, found) == (whole, blake3(whole).hexdigest())
    assert audio.content_hash(address) == blake3(whole).hexdigest()


async def test_an_object_that_changed_since_the_load_is_refused(s3: ObjectStore, opener: SourceOpener) -> None:
    """The store itself is asked for this version alone (If-Match, 412)."""
    address = s3.put("changing.wav", WAV)
    found, _ = await examined(address)
    s3.put("changing.wav", OTHER)
    with pytest.raises(SourceError, match="changed since its manifest was checked: run its manifest again"):
        await content(opener, address, found)


def test_objects_that_cannot_be_sent_are_refused_in_the_words_of_files(s3: ObjectStore) -> None:
    """Empty, missing, in no bucket."""
    empty = s3.put("empty.wav", b"")
    with RemoteFiles() as files:
        for address, said in (
            (empty, "the file is empty: record or copy it anew"),
            ("s3://recordings/gone.wav", r"the file cannot be found \(HTTP 404 Not Found\): correct the path"),
            ("s3://no-such-bucket/a.wav", r"the file cannot be found \(HTTP 404 Not Found\)"),
        ):
            with pytest.raises(ValueError, match=said):
                files.examine(address)


def test_a_store_that_is_away_says_so_without_its_address(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no secret and no signature stands in a text."""
    del s3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with RemoteFiles() as files, pytest.raises(ValueError, match="cannot be reached") as raised:
            files.examine("s3://recordings/a.wav")
    assert str(raised.value) == "the file cannot be reached (no connection to the store): run again when it can"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_stores_certificate_is_checked(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """By the system's authorities, and the one that a usual variable names; any other store is not read from."""
    del s3
    trusted = authority(tmp_path)
    with WebServer(trusted.tls()) as server:
        server.serve("recordings/a.wav", WAV)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address("").rstrip("/"))
        with RemoteFiles() as files, pytest.raises(ValueError, match="the store's certificate is not trusted"):
            files.examine("s3://recordings/a.wav")
        monkeypatch.setenv(variable, str(trusted.bundle))
        with RemoteFiles() as files:
            assert files.examine("s3://recordings/a.wav")[0].size == len(WAV)


async def test_a_cut_stream_of_a_store_is_not_resumed(
    s3: ObjectStore, opener: SourceOpener, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default its library would ask for the rest by itself, of whatever stands there by then."""
    del s3
    whole = WAV + os.urandom(LARGE)
    web.serve("recordings/a.wav", whole, cut_after=LARGE // 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.address("").rstrip("/"))
    found, _ = await examined("s3://recordings/a.wav")
    with pytest.raises(SourceAwayError, match="the file could not be read: the connection was cut"):
        await content(opener, "s3://recordings/a.wav", found)
    assert (
        len([asked for asked in web.asked("recordings/a.wav") if "range" not in {name.lower() for name in asked}]) == 1
    )


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_a_store_does_not_take(
    s3: ObjectStore, web: WebServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Denied is denied, in the words of a file that this user may not read."""
    del s3
    web.serve("recordings/a.wav", WAV, status=status)
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.address("").rstrip("/"))
    with RemoteFiles() as files, pytest.raises(ValueError, match="give these credentials leave to read it"):
        files.examine("s3://recordings/a.wav")


def test_without_credentials_the_row_says_so(web: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a cloud's own server of credentials is asked and has none, that is the reason that is told."""
    pytest.importorskip("obstore", reason="the extra cloud is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.address("").rstrip("/"))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", web.address("").rstrip("/"))
    with RemoteFiles() as files, pytest.raises(ValueError, match="no credentials were found"):
        files.examine("s3://recordings/a.wav")


CLOUDS = {
    "gs://place/calls/a b.wav": ("place/calls%2Fa%20b%2Ewav", "GOOGLE_BASE_URL", {"GOOGLE_SKIP_SIGNATURE": "true"}),
    "az://place/calls/a b.wav": (
        "place/calls/a%20b.wav",
        "AZURE_STORAGE_ENDPOINT",
        {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=very-secret-signature"},
    ),
}


@pytest.mark.parametrize("address", CLOUDS)
async def test_the_other_clouds_are_asked_as_their_tools_ask(
    web: WebServer, opener: SourceOpener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    """Google's and Azure's stores: where and by whom the environment says; guarded by the ETag, and not resumed."""
    pytest.importorskip("obstore", reason="the extra cloud is not installed")
    path, endpoint, environment = CLOUDS[address]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(endpoint, web.address("").rstrip("/"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    web.serve(path, WAV)
    found, facts = await examined(address)
    assert facts == AudioFacts("audio/wav", 2.0, 1, 8000, AudioFormat.WAV)
    assert await content(opener, address, found) == (WAV, blake3(WAV).hexdigest())
    web.serve(path, OTHER)
    with pytest.raises(SourceError, match="changed since its manifest was checked"):
        await content(opener, address, found)
    for status, said in ((404, "cannot be found"), (403, "give these credentials leave"), (503, "cannot be reached")):
        web.files[path].status = status
        with RemoteFiles() as files, pytest.raises(ValueError, match=said) as raised:
            await asyncio.to_thread(files.examine, address)
        assert "secret" not in str(raised.value)


def test_a_store_without_its_settings_says_which_one_is_lacking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An account of Azure cannot be guessed from a container's name."""
    pytest.importorskip("obstore", reason="the extra cloud is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with RemoteFiles() as files, pytest.raises(ValueError, match=r"settings of az:// are not whole: .*[Aa]ccount"):
        files.examine("az://place/a.wav")


def test_without_the_extra_the_row_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who has no row of a store needs its library."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "uploader.audio.objects", raising=False)
    with RemoteFiles() as files, pytest.raises(ValueError, match=r"pip install 'uploader\[cloud\]'"):
        files.examine("s3://recordings/a.wav")
