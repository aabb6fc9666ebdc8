"""How long messages are kept, as it is asked for and as it is said."""

from __future__ import annotations

import pytest

from stele.services.errors import InvalidArgument
from stele.services.pb import common_pb2
from stele.services.topics import FOR_EVER, Retention, check_retention

WEEK_MS = 7 * 86_400_000


def test_a_retention_reads_back_as_it_was_written() -> None:
    for retention in (FOR_EVER, Retention(1 << 30, WEEK_MS), Retention(age_ms=WEEK_MS)):
        assert FOR_EVER.changed_by(retention.message()) == retention


def test_what_a_change_leaves_out_stays_and_zero_is_no_bound() -> None:
    kept = Retention(1 << 30, WEEK_MS)
    assert kept.changed_by(common_pb2.Retention()) == kept
    assert kept.changed_by(common_pb2.Retention(age_ms=0)) == Retention(1 << 30, 0)
    assert kept.changed_by(common_pb2.Retention(size_bytes=1 << 20)) == Retention(1 << 20, WEEK_MS)


@pytest.mark.parametrize("retention", [Retention(size_bytes=1), Retention(age_ms=1), Retention(age_ms=2**63)])
def test_bounds_that_make_no_sense_are_refused(retention: Retention) -> None:
    with pytest.raises(InvalidArgument, match="or 0 to keep messages for ever"):
        check_retention(retention)
