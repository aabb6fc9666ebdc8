"""A broker: the stateless front door for producers and consumers of the topics whose bundles it owns."""
