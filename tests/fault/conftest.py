"""Whole clusters for the fault tests."""

from tests.support.cluster import cluster

__all__ = ["cluster"]
