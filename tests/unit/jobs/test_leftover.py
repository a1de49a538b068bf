"""What is said to be left of a job that did not succeed."""

from dataclasses import replace

import pytest

from tests.support.ctl import job_done
from xenmoved.jobs.leftover import leftover
from xenmoved.jobs.report import JobKind, JobState

FAILED = job_done(state=JobState.FAILED)
(VOLUME,) = FAILED.volumes
MADE = replace(FAILED, volumes=(replace(VOLUME, fresh=True),))


@pytest.mark.parametrize("state", [JobState.DONE, JobState.RUNNING, JobState.IN_DOUBT])
def test_nothing_of_a_job_that_has_not_failed(state):
    assert leftover(replace(MADE, state=state)) == ""


def test_nothing_of_one_that_came_from_elsewhere():
    assert leftover(replace(MADE, kind=JobKind.RECEIVE)) == ""


def test_a_volume_that_was_made_is_removed_only_if_that_is_known():
    assert leftover(replace(MADE, confirmed=True)) == (
        "host-b has removed images:web-root: another try sends all of it again"
    )
    assert "removes images:web-root when it learns of the end" in leftover(MADE)
    assert "which it has not confirmed" in leftover(MADE)


def test_a_copy_that_was_there_before_stays():
    said = "images:web-root stays there: another try sends what differs"
    assert leftover(replace(FAILED, confirmed=True)) == said
    both = replace(MADE, confirmed=True, volumes=(*MADE.volumes, VOLUME))
    assert leftover(both).endswith(f"again; {said}")


@pytest.mark.parametrize("changed", [{"keep_partial": True}, {"kind": JobKind.SYNC}])
def test_what_is_to_be_kept_is_not_said_to_be_removed(changed):
    said = "what was copied stays on host-b: another try sends the rest"
    assert leftover(replace(MADE, **changed)) == said


def test_a_job_that_never_got_to_copy():
    said = "nothing was copied to host-b"
    assert leftover(replace(FAILED, volumes=())) == said
