"""gRPC between processes: servers, channels, typed errors, and the way to stores and nameservers."""
