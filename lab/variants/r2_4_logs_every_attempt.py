"""Wrong on purpose (R2.4): one log line per attempt; and its opposite, silence."""

from __future__ import annotations

from stele.services.rpc.resolution import ResolverPolicy, _Store


class LogsEveryAttempt(ResolverPolicy):
    def log_is_due(self, store: _Store, now_s: float) -> bool:
        return True


class NeverLogs(ResolverPolicy):
    def log_is_due(self, store: _Store, now_s: float) -> bool:
        return False
