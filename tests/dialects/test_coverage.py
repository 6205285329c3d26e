"""What is shown of each dialect: every numbered behaviour of its seed, and the cases that each has to stand."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

# The seeds' behaviours are numbered from 1; test_N_… shows number N.
BEHAVIOURS = {
    "acceptance/test_seed_004.py": 32,
    "dialects/koosearch": 11,
    "dialects/llamacloud": 10,
    "dialects/nexent": 10,
    "dialects/tagging": 15,
}

# Case → the test that shows it. What is a bad line elsewhere is a bad element, row, file or source here.
ALL_FAIL, ALL_SUCCEED, NOTHING, BAD_LINES, CONFLICT_ONCE, FOREIGN, PAUSED = CASES = (
    "all fail", "all succeed", "nothing in it", "bad lines", "a 409 is tried once", "foreign ids",
    "paused elsewhere while a strict client polls",
)  # fmt: skip
SHOWN: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        ALL_FAIL: "test_a_batch_of_which_all_fail_has_results",
        ALL_SUCCEED: "test_many_requests_come_in_one_create_and_their_results_in_its_order",
        NOTHING: "test_errors_are_of_the_class_that_the_client_has_for_them",
        BAD_LINES: "test_a_create_is_read_as_it_arrives_and_no_longer_than_it_may_be",
        CONFLICT_ONCE: "test_a_409_is_tried_once",
        FOREIGN: "test_errors_are_of_the_class_that_the_client_has_for_them",
        PAUSED: "test_a_batch_paused_by_others_is_in_progress_for_strict_clients",
    },
    "koosearch": {
        ALL_FAIL: "test_7_tasks_that_all_end_alike_are_counted_so",
        ALL_SUCCEED: "test_7_tasks_that_all_end_alike_are_counted_so",
        NOTHING: "test_9_a_create_counts_what_it_made_and_what_it_could_not",
        BAD_LINES: "test_9_a_create_counts_what_it_made_and_what_it_could_not",
        CONFLICT_ONCE: "test_10_a_task_without_an_output_tells_clients_not_to_come_back",
        FOREIGN: "test_4_a_token_is_required_and_its_tenant_sees_its_own_tasks_alone",
        PAUSED: "test_5_a_task_of_a_paused_batch_is_pending_and_shows_no_other_word",
    },
    "llamacloud": {
        ALL_FAIL: "test_a_batch_of_which_every_file_fails_is_completed",
        ALL_SUCCEED: "test_a_batch_goes_from_upload_to_the_text_and_markdown_of_every_file",
        NOTHING: "test_6_nothing_makes_no_batch_and_an_empty_file_no_file",
        BAD_LINES: "test_a_document_that_cannot_be_read_fails_its_job_and_not_the_batch",
        CONFLICT_ONCE: "test_cancel_keeps_what_has_ended_and_a_second_one_is_a_conflict_tried_once",
        FOREIGN: "test_another_projects_batches_jobs_and_files_are_not_there",
        PAUSED: "test_a_batch_that_is_paused_through_the_other_api_never_shows_a_word_of_it",
    },
    "nexent": {
        ALL_FAIL: "test_10_bad_files_never_disturb_the_others",
        ALL_SUCCEED: "test_1_a_batch_is_taken_at_once_and_each_file_goes_its_own_way",
        NOTHING: "test_2_the_answer_is_a_201_with_the_ids",
        BAD_LINES: "test_3_bad_sources_have_their_place_and_are_told",
        CONFLICT_ONCE: "test_8_without_a_sink_nothing_is_taken_and_the_answer_says_what_to_do",
        FOREIGN: "test_6_details_tell_what_came_of_a_task_and_unknown_ones_are_not_found",
        PAUSED: "test_5_a_batch_that_is_paused_elsewhere_shows_no_word_of_its_own",
    },
    "openai": {
        ALL_FAIL: "test_a_batch_without_a_success_has_no_output_file",
        ALL_SUCCEED: "test_each_of_the_three_endpoints_is_called",
        NOTHING: "test_a_file_of_another_purpose_or_without_lines_makes_no_batch",
        BAD_LINES: "test_bad_lines_fail_the_batch_and_are_told_one_by_one",
        CONFLICT_ONCE: "test_a_409_is_tried_once",
        FOREIGN: "test_errors_are_of_the_class_that_the_client_has_for_them",
        PAUSED: "test_a_batch_paused_by_others_is_in_progress_for_strict_clients",
    },
    "tagging": {
        ALL_FAIL: "test_11_a_job_whose_documents_all_end_alike_is_completed",
        ALL_SUCCEED: "test_11_a_job_whose_documents_all_end_alike_is_completed",
        NOTHING: "test_1_what_cannot_be_started_is_a_400_in_the_seeds_shape_and_starts_nothing",
        BAD_LINES: "test_11_one_documents_failure_never_stops_the_job",
        CONFLICT_ONCE: "test_7_errors_are_those_of_the_seeds_table",
        FOREIGN: "test_7_errors_are_those_of_the_seeds_table",
        PAUSED: "test_9_a_job_paused_through_the_canonical_api_is_paused_here",
    },
}  # fmt: skip


def named_in(place: Path) -> set[str]:
    files = [place] if place.is_file() else place.glob("test_*.py")
    return {
        name
        for file in files
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize(("place", "last"), BEHAVIOURS.items())
def test_every_behaviour_of_a_seed_has_a_test_that_is_called_after_it(place: str, last: int) -> None:
    shown = {int(found[1]) for name in named_in(TESTS / place) if (found := re.match(r"test_(\d+)_", name))}
    assert sorted(shown) == list(range(1, last + 1))


def test_every_dialect_is_in_the_table() -> None:
    folders = {one.parent.name for one in (TESTS / "dialects").glob("*/conftest.py")}
    assert folders == SHOWN.keys()


@pytest.mark.parametrize(("dialect", "case"), [(dialect, case) for dialect in SHOWN for case in CASES])
def test_every_case_is_shown_of_every_dialect(dialect: str, case: str) -> None:
    assert SHOWN[dialect][case] in named_in(TESTS / "dialects" / dialect)
