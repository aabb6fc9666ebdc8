"""What can go wrong with a local cluster, besides what its processes say themselves."""

from __future__ import annotations

from stele.services.errors import Code, SteleError


class ProcessFailed(SteleError):
    """A process of the local cluster ended while starting, or was not ready in time.  Definite, retryable."""

    code, definite, retryable = Code.UNAVAILABLE, True, True


class NoSuchProcess(SteleError):
    """The local cluster has no process of that name.  Definite, terminal."""

    code, definite, retryable = Code.NOT_FOUND, True, False


class NoCluster(SteleError):
    """The directory holds no cluster.  Definite, terminal."""

    code, definite, retryable = Code.NOT_FOUND, True, False


class ClusterBusy(SteleError):
    """Another command is starting or stopping this cluster.  Definite, retryable."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True
