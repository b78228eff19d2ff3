"""What makes two rows the same item."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model import FileSignature, Row, State
from uploader.policy.identity import ExistingItem, Items, Unread, find, is_corrected

A, B = "/audio/a.wav", "/audio/b.wav"
BEGUN = [State.COMPLETED, State.ACCEPTED, State.FAILED, State.REFUSED, State.IN_DOUBT]


@dataclass
class Disk:
    """The files' contents, and which of them were read to be hashed."""

    contents: Mapping[str, str]
    read: list[str] = field(default_factory=list)

    def content_hash(self, path: str) -> str | None:
        """Return the content's name as the hash of a file."""
        self.read.append(path)
        return self.contents.get(path)


def known(
    path: str = A,
    content: str | None = "speech",
    *,
    item_id: int = 1,
    state: State = State.COMPLETED,
    change: str = "monday",
    load_id: int = 1,
    size: int = 100,
    attempts: int | None = None,
) -> ExistingItem:
    """Return an item that the ledger knows; begun, unless it is pending."""
    attempts = int(state is not State.PENDING) if attempts is None else attempts
    return ExistingItem(item_id, 1, path, size, change, content, state, attempts, item_id, load_id)


def seen(size: int = 100, change: str = "monday") -> FileSignature:
    """Return the signature of a row's file."""
    return FileSignature(size, change)


def row(
    size: int = 100,
    change: str = "monday",
    content_type: str | None = None,
    parameters: Mapping[str, str] | None = None,
) -> Row:
    """Return a row that names the file."""
    return Row(2, "c", "a.wav", A, content_type, parameters or {}, signature=FileSignature(size, change))


def found(path: str, signature: FileSignature | None, items: list[ExistingItem], disk: Disk) -> int | Unread | None:
    """Return the item that a row of the second load names."""
    item = find(path, signature, Items(items), 2, disk.content_hash)
    return item.item_id if isinstance(item, ExistingItem) else item


def test_an_address_that_is_signed_anew_is_known_without_reading_it() -> None:
    """Its version is the same, so nothing is hashed; an address that names another recording is another one."""
    disk = Disk({})
    call = "https://pbx.example/export?call={}&X-Amz-Signature={}"
    items = [known(call.format(number, "monday"), f"call {number}", item_id=number) for number in (17, 18)]
    assert found(call.format(17, "tuesday"), seen(), items, disk) == 17
    assert found(call.format(18, "tuesday"), seen(), items, disk) == 18
    assert not disk.read
    assert found(call.format(19, "tuesday"), seen(), items, Disk({call.format(19, "tuesday"): "call 19"})) is None


@pytest.mark.parametrize("state", [*BEGUN, State.PENDING])
def test_an_untouched_file_is_known_without_reading_it(state: State) -> None:
    """Equal path, size and change mean equal content, whatever the item's state; nothing is hashed."""
    disk = Disk({A: "speech"})
    assert found(A, seen(), [known(state=state)], disk) == 1
    assert disk.read == []


def test_a_row_of_a_conversation_that_knows_nothing_is_new() -> None:
    """Without an existing item every row is new."""
    assert found(A, seen(), [], Disk({A: "speech"})) is None


def test_another_size_is_another_item_and_is_not_read() -> None:
    """Files are hashed beforehand only where their size equals that of an existing item."""
    disk = Disk({A: "speech", B: "music"})
    assert found(B, seen(size=101), [known(A)], disk) is None
    assert disk.read == []


@pytest.mark.parametrize("state", BEGUN)
def test_a_renamed_file_is_the_same_item(state: State) -> None:
    """A begun item is found by its content, under any name, even if the old file is gone."""
    assert found(B, seen(change="tuesday"), [known(A, state=state)], Disk({B: "speech"})) == 1


def test_the_same_size_with_other_content_is_another_item() -> None:
    """The size alone never makes two files the same."""
    assert found(B, seen(), [known(A)], Disk({A: "speech", B: "music"})) is None


@pytest.mark.parametrize("state", BEGUN)
def test_a_re_dated_file_is_the_same_item(state: State) -> None:
    """A new modification time alone changes nothing: the content is hashed and found equal."""
    disk = Disk({A: "speech"})
    assert found(A, seen(change="tuesday"), [known(state=state)], disk) == 1
    assert disk.read == [A]


@pytest.mark.parametrize("size", [100, 101])
@pytest.mark.parametrize("state", [state for state in BEGUN if state is not State.REFUSED])
def test_content_that_changed_since_its_attempt_is_another_item(state: State, size: int) -> None:
    """A file that was overwritten after it was sent is new audio under an old name."""
    assert found(A, seen(size, "tuesday"), [known(state=state)], Disk({A: "music"})) is None


@pytest.mark.parametrize("size", [100, 101])
@pytest.mark.parametrize("state", [State.PENDING, State.REFUSED])
def test_an_item_of_which_nothing_was_appended_takes_the_file_as_it_is_now(size: int, state: State) -> None:
    """An unsent item is found by its path, whatever the file's present content."""
    assert found(A, seen(size, "tuesday"), [known(state=state)], Disk({A: "music"})) == 1


@pytest.mark.parametrize("content", ["speech", None])
def test_what_was_dropped_is_not_taken_for_another_recording(content: str | None) -> None:
    """A file of equal size in a dropped item's place is new audio: it must not be shown as dropped."""
    dropped = known(A, content, state=State.DROPPED)
    assert found(A, seen(change="tuesday"), [dropped], Disk({A: "music"})) is None


@pytest.mark.parametrize(
    ("state", "row", "disk", "mended"),
    [
        (State.REFUSED, row(), "speech", False),
        (State.REFUSED, row(change="tuesday"), "speech", False),  # a touched file alone is nothing
        (State.REFUSED, row(change="tuesday"), "music", True),
        (State.REFUSED, row(size=101, change="tuesday"), "music", True),
        (State.REFUSED, row(parameters={"languageCode": "de-DE"}), "speech", True),
        (State.REFUSED, row(content_type="audio/mp3"), "speech", True),
        (State.FAILED, row(parameters={"languageCode": "de-DE"}), "speech", False),
        (State.IN_DOUBT, row(content_type="audio/mp3"), "speech", False),
    ],
)
def test_a_refused_item_goes_again_where_its_row_mends_it(state: State, row: Row, disk: str, mended: bool) -> None:
    """Only a refused item is corrected, by another recording, type or parameter: nothing of it was appended."""
    item = replace(known(state=state), content_type="audio/wav")
    assert is_corrected(item, row, Disk({A: disk}).content_hash) is mended


@pytest.mark.parametrize("change", ["monday", "tuesday"])
@pytest.mark.parametrize("content", ["speech", None])
def test_what_was_refused_for_its_file_goes_again_once_the_file_is_checked(change: str, content: str | None) -> None:
    """An item refused for its file is corrected by any file that passes the check, which is not read."""
    item = replace(known(content=content, state=State.REFUSED), is_refused_for_file=True)
    disk = Disk({A: "speech"})
    assert (is_corrected(item, row(change=change), disk.content_hash), disk.read) == (True, [])


def test_a_pending_item_that_was_tried_takes_the_file_as_it_is_now() -> None:
    """An item that was tried and is pending again takes new content: nothing was appended."""
    items = [known(state=State.PENDING, attempts=3)]
    assert found(A, seen(101, "tuesday"), items, Disk({A: "music"})) == 1


def test_a_waiting_item_does_not_take_a_content_that_another_item_is() -> None:
    """An item that a person retries keeps its content where its file's new content is another item already."""
    tried = known(A, "speech", item_id=1, state=State.PENDING, attempts=1)
    anew = known(A, None, item_id=2, state=State.PENDING, change="tuesday")
    assert found(A, seen(change="tuesday"), [tried, anew], Disk({A: "music"})) == 2


def test_a_recording_moved_over_another_is_the_item_that_it_was() -> None:
    """An appended item is found by its content before a refused item is found by its path alone."""
    refused = known(A, None, item_id=1, state=State.REFUSED)
    appended = known(B, "music", item_id=2)
    assert found(A, seen(change="tuesday"), [refused, appended], Disk({A: "music"})) == 2


def test_pending_content_under_another_name_is_compared_by_reading_both() -> None:
    """An item without a hash is hashed where a row has its size."""
    disk = Disk({A: "speech", B: "speech"})
    assert found(B, seen(), [known(A, None, state=State.PENDING)], disk) == 1
    assert set(disk.read) == {A, B}


def test_pending_content_that_cannot_be_read_is_not_guessed() -> None:
    """A pending item whose file is gone is not taken for another file of its size."""
    assert found(B, seen(), [known(A, None, state=State.PENDING)], Disk({B: "speech"})) is None


@pytest.mark.parametrize("state", [*BEGUN, State.PENDING])
def test_a_row_that_this_load_has_named_is_not_named_again(state: State) -> None:
    """The second row of one manifest with the same audio is meant, and is a second item."""
    assert found(A, seen(), [known(state=state, load_id=2)], Disk({A: "speech"})) is None


def test_two_occurrences_are_found_again_in_their_order() -> None:
    """Loaded once more, the first row is the first item and the second row the second."""
    items = [known(item_id=1), known(item_id=2, state=State.PENDING)]
    disk = Disk({A: "speech"})
    first = find(A, seen(), Items(items), 2, disk.content_hash)
    assert isinstance(first, ExistingItem)
    assert first is items[0]
    first.load_id = 2
    assert found(A, seen(), items, disk) == 2
    items[1].load_id = 2
    assert found(A, seen(), items, disk) is None


def test_what_was_begun_is_found_before_what_was_not() -> None:
    """An overlapping manifest with one of two occurrences names the one that was appended."""
    items = [known(item_id=1, state=State.PENDING), known(item_id=2, state=State.COMPLETED)]
    assert found(A, seen(), items, Disk({A: "speech"})) == 2


@pytest.mark.parametrize("state", [*BEGUN, State.PENDING])
def test_a_file_that_is_gone_is_the_item_that_was_begun(state: State) -> None:
    """A row whose file was archived is the begun item of its path."""
    assert found(A, None, [known(state=state, attempts=1)], Disk({})) == 1


def test_a_file_that_is_gone_names_nothing_that_was_not_begun() -> None:
    """A pending item of which nothing was ever sent is not found by a path without a file."""
    assert found(A, None, [known(state=State.PENDING)], Disk({})) is None


def test_a_file_that_is_gone_is_not_looked_for_by_its_content() -> None:
    """Where a file is gone and another path is given, the row is a new item."""
    assert found(B, None, [known(A)], Disk({A: "speech"})) is None


def test_a_path_that_was_used_for_several_recordings_names_the_newest() -> None:
    """Where a recorder writes call.wav every night, a gone file is the last load's item, not the first one's."""
    items = [known(item_id=1, load_id=0), known(content="music", item_id=2, load_id=1)]
    assert found(A, None, items, Disk({})) == 2


def test_of_two_equal_files_each_row_prefers_the_item_of_its_own_path() -> None:
    """A row whose path names a begun item is that item: an equal file's row, read before it, does not take it."""
    items = [known(A, item_id=1), known(B, item_id=2, state=State.PENDING)]
    disk = Disk({B: "speech"})
    second = find(B, seen(), Items(items), 2, disk.content_hash)
    assert isinstance(second, ExistingItem)
    second.load_id = 2
    assert (second.item_id, found(A, None, items, disk)) == (2, 1)


CONTENTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=7)
SIZES = {"a": 100, "b": 100, "c": 200}


@dataclass(frozen=True)
class Night:
    """One lane after its first load, some of it sent, and the same rows once more in another order."""

    contents: Mapping[str, str]
    items: list[ExistingItem]
    order: list[str]


@st.composite
def nights(draw: st.DrawFn, *, distinct: bool = False) -> Night:
    """Draw a night; ``distinct``: no two files hold the same audio."""
    drawn = draw(st.permutations("abc") if distinct else CONTENTS)
    contents = {f"/audio/{number}.wav": content for number, content in enumerate(drawn)}
    sent = draw(st.integers(0, len(drawn)))
    items = [
        known(
            path,
            content if place < sent else None,
            item_id=place,
            state=draw(st.sampled_from(BEGUN)) if place < sent else State.PENDING,
            size=SIZES[content],
        )
        for place, (path, content) in enumerate(contents.items())
    ]
    return Night(contents, items, draw(st.permutations(list(contents))))


def load_again(night: Night, disk: Disk, gone: frozenset[str] = frozenset()) -> dict[str, ExistingItem | None]:
    """Load the rows once more; each item that is found is another row's from then on."""
    named = {}
    for path in night.order:
        signature = None if path in gone else seen(SIZES[night.contents[path]], "tuesday")
        item = find(path, signature, Items(night.items), 2, disk.content_hash)
        assert not isinstance(item, Unread)
        named[path] = item
        if item is not None:
            item.load_id = 2
    return named


@given(nights())
def test_a_shuffled_and_re_dated_manifest_names_each_item_once(night: Night) -> None:
    """Loaded again in any order, every row finds an item of its own, with its content, and none is left over."""
    named = load_again(night, Disk(night.contents))
    assert sorted(item.item_id for item in named.values() if item) == [item.item_id for item in night.items]
    for path, item in named.items():
        assert item is not None
        assert night.contents[item.path] == night.contents[path]


@given(nights(distinct=True), st.data())
def test_an_archived_part_of_a_shuffled_manifest_is_found_again(night: Night, data: st.DataObject) -> None:
    """Any files of begun items may be gone: each row is still the item that its path was."""
    begun = [item.path for item in night.items if item.attempts]
    gone = frozenset(data.draw(st.sets(st.sampled_from(begun))) if begun else ())
    disk = Disk({path: content for path, content in night.contents.items() if path not in gone})
    named = load_again(night, disk, gone)
    assert {path: item and item.path for path, item in named.items()} == {path: path for path in night.order}


def find_plainly(
    path: str, signature: FileSignature | None, items: list[ExistingItem], load_id: int, disk: Mapping[str, str]
) -> ExistingItem | Unread | None:
    """Find the item of a row by comparing all items, without an index: the reference for `find`."""

    def first(some: list[ExistingItem]) -> ExistingItem | None:
        return min(some, key=lambda item: (not item.attempts, item.position), default=None)

    unnamed = [item for item in items if item.load_id != load_id]
    own = [item for item in unnamed if item.path == path]
    if signature is None:
        begun = [item for item in own if item.attempts]
        return first([item for item in begun if item.load_id == max(other.load_id for other in begun)])
    alike = [item for item in own if item.size == signature.size]
    untouched = [item.content_hash for item in alike if item.change == signature.change and item.content_hash]
    ours = untouched[0] if untouched else disk.get(path)
    mine = [
        item
        for item in alike
        if item.change == signature.change
        or (item.content_hash is not None and item.content_hash == ours)
        or (item.content_hash is None and item.may_be_appended)
    ]
    others = [item for item in unnamed if item.path != path and item.size == signature.size]
    hashes = [item.content_hash or disk.get(item.path) for item in others]
    same = [item for item, content in zip(others, hashes, strict=True) if ours is not None and content == ours]
    if mine or (ours is not None and same):
        return first(mine) or first(same)
    if ours is None and (any(hashes) or any(item.content_hash and not item.is_unsent for item in alike)):
        return Unread.ROW
    if any(item.may_be_appended and content is None for item, content in zip(others, hashes, strict=True)):
        return Unread.ITEM
    return first([item for item in own if item.is_unsent])


PLACES = ["/1.wav", "/2.wav", "/3.wav"]
KNOWN = st.builds(
    lambda number, path, content, change, state, begun, load_id: known(
        path,
        content,
        item_id=number,
        state=state,
        change=change,
        load_id=load_id,
        size=SIZES[content or "a"],
        attempts=int(begun or state is not State.PENDING),
    ),
    st.just(0),
    st.sampled_from(PLACES),
    st.sampled_from(["a", "b", "c", None]),
    st.sampled_from(["monday", "tuesday"]),
    st.sampled_from([*BEGUN, State.PENDING, State.DROPPED]),
    st.booleans(),
    st.integers(0, 1),
)


@given(
    items=st.lists(KNOWN, max_size=8),
    disk=st.dictionaries(st.sampled_from(PLACES), st.sampled_from("abc")),
    unread=st.sets(st.sampled_from(PLACES)),
    rows=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["monday", "tuesday"])), max_size=6),
)
def test_the_index_finds_what_a_look_at_each_item_finds(
    items: list[ExistingItem], disk: Mapping[str, str], unread: set[str], rows: list[tuple[str, str]]
) -> None:
    """The indexed search finds the same item as a plain one, for any items, any order of rows and any unread files."""
    for number, item in enumerate(items):
        item.item_id = item.position = number
    copies = [replace(item) for item in items]
    indexed = Items(items)
    readable = {path: content for path, content in disk.items() if path not in unread}
    for path, change in rows:
        signature = FileSignature(SIZES[disk[path]], change) if path in disk else None
        named = find(path, signature, indexed, 2, readable.get)
        plain = find_plainly(path, signature, copies, 2, readable)
        if isinstance(named, ExistingItem) and isinstance(plain, ExistingItem):
            assert named.item_id == plain.item_id
            named.load_id = plain.load_id = 2
        else:
            assert named is plain


@given(
    items=st.lists(KNOWN, max_size=8),
    disk=st.dictionaries(st.sampled_from(PLACES), st.sampled_from("abc"), min_size=1),
    unread=st.sets(st.sampled_from(PLACES)),
    change=st.sampled_from(["monday", "tuesday"]),
)
def test_no_unread_file_makes_a_new_item_of_what_was_appended(
    items: list[ExistingItem], disk: Mapping[str, str], unread: set[str], change: str
) -> None:
    """Where a row is a new item although files cannot be read, it is none that was appended once they can be."""
    readable = {path: content for path, content in disk.items() if path not in unread}
    for path, content in disk.items():
        signature = FileSignature(SIZES[content], change)
        if find(path, signature, Items(items), 2, readable.get) is None:
            known_then = find(path, signature, Items(items), 2, disk.get)
            assert not (isinstance(known_then, ExistingItem) and known_then.may_be_appended)


@pytest.mark.parametrize("state", [state for state in BEGUN if state is not State.REFUSED])
@pytest.mark.parametrize("path", [A, B, ""])
def test_a_row_that_cannot_be_compared_is_no_new_item(path: str, state: State) -> None:
    """A file that cannot be read for the moment may be what was appended, under any name or a forgotten one."""
    assert found(A, seen(change="tuesday"), [known(path, state=state)], Disk({})) is Unread.ROW


def test_an_appended_item_that_cannot_be_compared_may_be_the_row() -> None:
    """A row with the size of an item whose content cannot be known is none of the new items."""
    assert found(B, seen(), [known(A, None)], Disk({B: "speech"})) is Unread.ITEM


def test_a_waiting_item_takes_no_content_that_may_have_been_appended() -> None:
    """A pending item of the row's path does not take a file that cannot be compared with what was appended."""
    items = [known(A, None, item_id=1, state=State.PENDING), known(B, item_id=2)]
    assert found(A, seen(change="tuesday"), items, Disk({})) is Unread.ROW


def test_an_unread_file_that_is_compared_with_nothing_is_what_it_was() -> None:
    """Where no other item has its size, an item of which nothing was appended is found without reading the file."""
    refused = known(state=State.REFUSED)
    assert found(A, seen(change="tuesday"), [refused, known(B, item_id=2, size=101)], Disk({})) == 1
    assert found(A, seen(change="tuesday"), [known(B, item_id=2, load_id=2)], Disk({})) is None


def test_a_lane_of_one_size_is_not_compared_pair_by_pair() -> None:
    """Of thousands of renamed files of one size each is read once, and the search is linear."""
    count = 3000
    items = [known(f"/old/{number}.wav", f"content {number}", item_id=number) for number in range(count)]
    disk = Disk({f"/new/{number}.wav": f"content {number}" for number in range(count)})
    indexed, looks = Items(items), 0

    class Counted(str):
        """A path that counts how often it is compared."""

        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal looks
            looks += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    for item in items:
        item.path = Counted(item.path)
    for number in reversed(range(count)):
        named = find(f"/new/{number}.wav", seen(change="tuesday"), indexed, 2, disk.content_hash)
        assert isinstance(named, ExistingItem)
        assert named is items[number]
        named.load_id = 2
    assert len(disk.read) == count
    assert looks < 10 * count
