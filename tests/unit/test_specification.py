"""Every sentence of the specification (put-audio.md) that demands something of a client, and the test that shows it."""

import ast
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.every_parameter import EVERY_PARAMETER

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Demand:
    """A sentence by its section and a few of its words, and the tests that show that it is heeded."""

    section: str
    words: str
    tests: tuple[str, ...]


REFUSED = "unit/test_sandbox_parameters.py::test_what_is_not_documented_is_refused"
ALLOWED = "unit/test_sandbox_parameters.py::test_what_is_documented_is_read"
ALONE = "unit/test_sandbox_parameters.py::test_a_parameter_that_works_only_with_another_is_refused_alone"
FROM_A_ROW = "acceptance/test_every_parameter.py::test_every_parameter_of_a_row_reaches_the_service"
TOLD = "unit/test_parameters.py::test_a_value_that_does_not_fit_is_told_with_the_remedy"
WARNED = "unit/test_parameters.py::test_what_is_likely_a_mistake_is_warned_of"
SURVIVES = "properties/test_parameters.py::test_every_row_survives_the_way_to_the_service"
# sent in its type; a wrong value is refused before a byte leaves, and by the sandbox
TYPED = (FROM_A_ROW, SURVIVES, TOLD, ALLOWED, REFUSED)
DEPENDENT = (FROM_A_ROW, "unit/test_parameters.py::test_what_works_only_with_another_needs_it", ALONE)
CHANNELS = (
    "unit/test_sandbox_parameters.py::test_channel_metadata_of_the_documented_shape_is_read",
    "unit/test_sandbox_parameters.py::test_channel_metadata_of_any_other_shape_is_refused",
)
HEAD = "integration/test_client_wire.py::test_the_head_says_what_is_documented_and_no_more"
WORDS = "unit/test_replies.py::test_the_codes_are_told_in_the_words_of_the_documentation"
STATUSES = "unit/test_replies.py::test_the_table_of_statuses"
ONE_AFTER_THE_OTHER = "acceptance/test_at_most_once_in_order.py::test_all_files_go_once_in_order_within_the_limit"


def about(section: str, demands: dict[str, str | tuple[str, ...]]) -> tuple[Demand, ...]:
    """The demands of one section."""
    return tuple(
        Demand(section, words, (tests,) if isinstance(tests, str) else tests) for words, tests in demands.items()
    )


DEMANDS: tuple[Demand, ...] = (
    *about(
        "Authentication",
        {
            "you must generate your authentication token": (
                "integration/test_client_token.py::test_the_token_is_asked_for_as_documented",
                "integration/test_client_attempt.py::test_without_credentials_the_item_is_pending",
            ),
        },
    ),
    *about(
        "API Endpoint",
        {
            "PUT https://api.symbl.ai/v1/process/audio/:conversationId": (
                "integration/test_client_wire.py::test_the_conversation_id_is_one_segment_of_the_path",
                "unit/test_settings.py::test_without_any_source_the_defaults_stand",
            ),
        },
    ),
    *about(
        "Example API Call",
        {
            "curl --location --request PUT": "integration/test_examples.py::test_the_curl_example_is_right",
            "audioFileStream.pipe(request.put(audioOption": (
                "integration/test_examples.py::test_the_node_example_is_wrong_in_three_places",
                "integration/test_examples.py::test_the_corrected_node_example_is_accepted",
            ),
            'requests.request("PUT", url': (
                "integration/test_examples.py::test_the_python_example_is_wrong_in_one_place",
                "integration/test_examples.py::test_the_corrected_python_example_is_accepted",
            ),
            "This should correctly indicate the length of the request body": (
                "integration/test_client_wire.py::test_the_body_is_the_file",
                "integration/test_sandbox_strictness.py::test_a_bad_request_is_told_what_is_wrong",
            ),
            "in a format other than these, do not use this field": (
                "unit/test_audio_probing.py::test_a_whole_file_is_read_by_its_content_whatever_its_name",
                "acceptance/test_wire.py::test_a_rows_conversation_type_and_name_reach_the_service",
            ),
            "400: Please refer docs for correct input fields": (
                WORDS,
                "integration/test_client_attempt.py::test_a_refusal_is_written_down_with_its_words",
            ),
            "401: Please generate a new access token": (
                WORDS,
                "integration/test_client_attempt.py::test_a_401_is_pending_and_goes_with_a_new_token",
            ),
            "404: please check the input provided": (
                WORDS,
                "integration/test_client_attempt.py::test_a_404_has_the_documented_words",
            ),
            "429: Please wait for some requests to complete": (
                WORDS,
                "acceptance/test_limit.py::test_a_limit_that_a_429_states_is_taken_over",
            ),
            "500: Please contact support": (WORDS, STATUSES),
            "if response.status_code == 201": (STATUSES, "unit/test_replies.py::test_a_job_id_that_came_is_kept"),
        },
    ),
    *about(
        "Request Headers",
        {
            "Authorization: Mandatory, Bearer <token>": (
                HEAD,
                "integration/test_sandbox.py::test_wrong_credentials_are_refused_in_the_documented_words",
            ),
            "Content-Type: Accepted values are": (
                "integration/test_client_wire.py::test_a_media_type_is_sent_as_it_was_given",
                "unit/test_manifest.py::test_the_four_content_types_may_be_named",
                "unit/test_manifest.py::test_any_other_content_type_is_invalid",
                "integration/test_sandbox.py::test_the_documented_media_types_pass",
            ),
            "x-api-key: DEPRECATED": (
                HEAD,
                "integration/test_every_parameter.py::test_nothing_deprecated_is_sent",
                "integration/test_sandbox_strictness.py::test_the_deprecated_key_is_taken_and_journalled",
            ),
        },
    ),
    *about(
        "Path Parameter",
        {
            "conversationId: provided by the first request": (
                "acceptance/test_wire.py::test_a_rows_conversation_type_and_name_reach_the_service",
                "unit/test_manifest.py::test_an_id_that_would_lead_elsewhere_is_invalid",
                "acceptance/test_faults.py::test_jobs_that_fail_and_conversations_that_do_not_exist_hold_their_lanes",
            ),
        },
    ),
    *about(
        "Query Parameters",
        {
            "name: Default name set to conversationId": (
                FROM_A_ROW,
                "acceptance/test_wire.py::test_a_rows_conversation_type_and_name_reach_the_service",
            ),
            "webhookUrl: Webhook url on which job updates to be sent": TYPED,
            "customVocabulary: String[], a list of words and phrases": TYPED,
            "confidenceThreshold: It should be in the range": TYPED,
            "detectPhrases: Accepted values are true & false": TYPED,
            "entities: Object[], see sample request": TYPED,
            "detectEntities: Boolean": TYPED,
            "detectEntities: If not set the Entities API will not return any": WARNED,
            "enableSeparateRecognitionPerChannel: Accepts true or false": TYPED,
            "channelMetadata: only works when enableSeparateRecognitionPerChannel": DEPENDENT,
            "languageCode: Please check language Code": (FROM_A_ROW, TOLD),
            "mode: Accepts phone or default": TYPED,
            "trackers: containing the name and vocabulary": TYPED,
            "enableAllTrackers: Setting this parameter to true": TYPED,
            "enableSummary: Setting this parameter to true": TYPED,
            "enableSummary: Ensure that you use https://api.symbl.ai/ as the base URL": (
                WARNED,
                "unit/test_parameters.py::test_a_summary_at_the_documented_base_url_is_not_warned_of",
            ),
            "enableSpeakerDiarization: Pass this as true": TYPED,
            "diarizationSpeakerCount: The number of unique speakers": (
                FROM_A_ROW,
                TOLD,
                "unit/test_sandbox_parameters.py::test_a_speaker_count_is_a_positive_number",
                "unit/test_sandbox_parameters.py::test_any_other_speaker_count_is_refused",
            ),
        },
    ),
    *about("Custom Entity", {'"customType": "identify_people", "text": "executives"': TYPED}),
    *about(
        "Channel Metadata",
        {
            "has the members channel and speaker as shown below": (FROM_A_ROW, TOLD, *CHANNELS),
            "channel: the channel number in the audio file": (
                *CHANNELS,
                "unit/test_recordings.py::test_a_row_is_refused_for_channels_alone",
            ),
            "speaker: Yes, the wrapper object": CHANNELS,
            "name: No, String; email: No, String": CHANNELS,
        },
    ),
    *about(
        "Response",
        {
            "conversationId: ID to be used with Conversation API": (
                "unit/test_replies.py::test_an_answer_for_this_conversation_or_none_is_trusted",
                "unit/test_replies.py::test_an_answer_for_another_conversation_is_in_doubt",
            ),
            "jobId: ID to be used with Job API": (
                "unit/test_replies.py::test_a_success_without_a_job_id_is_in_doubt",
                "integration/test_client_jobs.py::test_a_job_id_is_one_segment_of_the_path",
            ),
        },
    ),
    *about(
        "Speaker Separation",
        {
            "enableSpeakerDiarization and diarizationSpeakerCount query parameters need to be passed": (
                *DEPENDENT,
                WARNED,
            ),
            "available for English and Spanish languages only": WARNED,
        },
    ),
    *about(
        "Billing for Speaker Separated Channels",
        {
            "totalDuration = duration_of_the_audio_file * total_number_of_channels": (
                "unit/test_billing.py::test_channels_are_billed_where_each_is_recognised",
                "acceptance/test_part_of_a_batch.py::test_what_would_be_billed_is_told_and_bounded",
            ),
        },
    ),
    *about(
        "Using Webhook",
        {
            "The webhookUrl will be used to send the status of job created": (
                "acceptance/test_webhook.py::test_jobs_tell_of_themselves",
                "acceptance/test_webhook.py::test_a_row_with_a_webhook_of_its_own_keeps_it",
                "integration/test_sandbox_calls.py::test_every_change_of_the_status_is_told",
            ),
            "Every time the status of the job changes it will be notified on the Webhook Url": (
                "unit/test_facts.py::test_the_table_of_callbacks",
                "acceptance/test_webhook.py::test_a_lost_answer_is_settled_by_a_call",
                "integration/test_webhook.py::test_a_call_is_answered_once_it_is_in_the_ledger",
            ),
            '"jobId": ID to be used with Job API, in a call': (
                "unit/test_callbacks.py::test_both_names_of_the_job_are_read_and_nothing_else",
                "integration/test_sandbox_calls.py::test_a_job_may_be_named_id",
            ),
            "Valid statuses: scheduled, in_progress, completed, failed": (
                "integration/test_client_jobs.py::test_the_four_statuses_are_told",
                "integration/test_client_jobs.py::test_what_says_no_status_is_none",
                "integration/test_sandbox.py::test_a_job_is_scheduled_then_in_progress_then_over",
            ),
        },
    ),
    *about(
        "API Limit Error",
        {
            "a limit of maximum of X number of concurrent jobs per account": (
                "unit/test_limits.py::test_the_specified_text_states_its_limit",
                "integration/test_client_attempt.py::test_a_429_states_the_limit",
                "integration/test_sandbox.py::test_the_limit_is_stated_word_for_word",
                ONE_AFTER_THE_OTHER,
            ),
            "You must wait for the job to complete processing before you proceed": (
                ONE_AFTER_THE_OTHER,
                "acceptance/test_faults.py::test_a_job_that_never_ends_is_told_and_holds_its_lane",
                "acceptance/test_insights.py::test_live_jobs_leave_a_conversation_out_until_they_have_ended",
            ),
        },
    ),
)


@cache
def names_in(file: str) -> frozenset[str]:
    """The names of the tests that a file has, without importing it."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: f"{demand.section}: {demand.words}"[:60])
def test_every_demand_has_its_tests(demand: Demand) -> None:
    """Each sentence is shown by tests that there are; a test that is renamed takes its sentence with it."""
    assert demand.tests
    named = [test.partition("::") for test in demand.tests]
    assert [f"{file}::{name}" for file, _, name in named if name not in names_in(file)] == []


def test_no_demand_stands_twice() -> None:
    """A sentence has one place in the table."""
    assert [
        demand for demand, times in Counter((demand.section, demand.words) for demand in DEMANDS).items() if times > 1
    ] == []


def test_every_parameter_is_in_the_table() -> None:
    """Each row of the specification's own table of parameters demands something."""
    named = {demand.words.partition(":")[0] for demand in DEMANDS if demand.section == "Query Parameters"}
    assert named == {*EVERY_PARAMETER}
