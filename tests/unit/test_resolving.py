"""What evidence proves."""

import pytest

from uploader.model import ConversationSnapshot
from uploader.policy.resolving import proves_append

FEW, MANY = ConversationSnapshot(3, "t1"), ConversationSnapshot(4, "t2")


@pytest.mark.parametrize(
    ("before", "now", "alone", "proof"),
    [
        (FEW, MANY, True, True),
        (FEW, MANY, False, False),  # another item of the conversation may have done it
        (FEW, FEW, True, False),  # the job may still run, or the audio be silent
        (MANY, FEW, True, False),
        (None, MANY, True, False),
        (FEW, None, True, False),
    ],
)
def test_a_conversation_that_grew_is_proof_of_what_alone_can_have_made_it_grow(
    before: ConversationSnapshot | None, now: ConversationSnapshot | None, alone: bool, proof: bool
) -> None:
    """An append is proved by new messages since the attempt that no other item of ours can have brought."""
    assert proves_append(before, now, alone=alone) is proof
