"""The file's cluster, whole at the begin of each test."""

from tests.support.cluster import cluster

__all__ = ["cluster"]
