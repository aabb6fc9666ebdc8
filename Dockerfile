# One image for every role: the command names its module (stele.nameserver, stele.datanode, stele.broker) and STELE_… variables configure it.
#
#   docker build -t stele .
#   docker run --rm stele stele.nameserver --help
#
# On a host that reaches no image registry, deploy/airgap/build makes the base image under this name first.
FROM python:3.11-slim-bookworm

# pip's own settings for hosts that need them, e.g. --build-arg PIP_INDEX_URL=…; unset ones change nothing.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_DEFAULT_TIMEOUT

RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /var/lib/stele --shell /usr/sbin/nologin stele \
 && install -d -o stele -g stele /var/lib/stele \
 && python -m venv /opt/stele
ENV PATH=/opt/stele/bin:$PATH

# Dependencies are a layer of their own: it is built again when pyproject.toml or constraints.txt changes, not with the code.
WORKDIR /usr/src/stele
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); print(*p['build-system']['requires'], *p['project']['dependencies'], *p['project']['optional-dependencies']['server'], sep='\n')" > requirements.txt \
 && pip install --no-cache-dir --disable-pip-version-check --use-pep517 -c constraints.txt -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

# The working directory is no part of the module path: only what was installed runs.
ENV PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
    STELE_HOST=0.0.0.0 STELE_PORT=7000 STELE_RAFT_PORT=7001 STELE_ADMIN_PORT=7002 \
    STELE_DATA_DIR=/var/lib/stele STELE_LOG_FORMAT=json
WORKDIR /var/lib/stele
USER stele
EXPOSE 7000 7001 7002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-m", "stele.services.rpc.healthcheck"]
ENTRYPOINT ["python", "-m"]
CMD ["stele.nameserver"]
