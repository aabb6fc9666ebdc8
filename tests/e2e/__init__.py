"""Stele as its users get it, and not as its folders lie there: the cluster of docker-compose.yml in containers.

``compose.py`` drives Compose under a project name, images and ports of its own; ``load.py`` is a client that keeps
its own record; ``test_compose.py`` kills containers under load and brings them back.  Where no Docker engine answers
the container tests are left out, and the summary says so (``conftest.py``).  ``outsider`` needs none: the wheel, installed into empty
environments.
"""
