# An image of the worker alone. Set FLOW_WORKER_… variables, or mount a flow-worker.toml in /etc/flow-worker.
#   docker build -t flow-worker .
#   docker run --env-file worker.env --stop-timeout 40 flow-worker
# Allow 2 s more to stop than shutdown_seconds (38 s by default; docker's own default is 10 s). Otherwise docker kills
# the worker during calls: Service Bus redelivers those requests when their locks expire, and the calls end
# `unknown`.
# The volume /var/lib/flow-worker holds the journal and the key of continuation messages: keep it, or set
# FLOW_WORKER_JOURNAL__BACKEND=table and FLOW_WORKER_CONTINUATIONS__SEAL_KEY.
# The digest pins the bytes, and the tag says what they are. To update, take the digest that this command prints:
#   docker buildx imagetools inspect python:3.13-slim --format '{{.Manifest.Digest}}'
ARG BASE_IMAGE=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# The base image's pip installs from outside, so that the worker's environment holds no installer.
RUN python3 -m venv --without-pip /opt/flow-worker
COPY requirements-worker.lock ./
RUN python3 -m pip --python /opt/flow-worker install --quiet --require-hashes --only-binary :all: -r requirements-worker.lock

# The build backend stays in this stage.
COPY requirements-build.lock ./
RUN python3 -m venv backend \
    && backend/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements-build.lock

COPY contracts contracts
COPY worker worker
RUN backend/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist ./contracts ./worker \
    && python3 -m pip --python /opt/flow-worker install --quiet --no-deps --no-index dist/*.whl


FROM ${BASE_IMAGE}
COPY --from=build /opt/flow-worker /opt/flow-worker

# Kubernetes and Container Apps probe from outside the container, so the health endpoint listens on all addresses.
ENV PATH=/opt/flow-worker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLOW_WORKER_HEALTH__HOST=0.0.0.0 \
    FLOW_WORKER_JOURNAL__PATH=/var/lib/flow-worker/journal.sqlite3
RUN mkdir -m 700 /var/lib/flow-worker && chown 10001:10001 /var/lib/flow-worker
VOLUME /var/lib/flow-worker
WORKDIR /etc/flow-worker

# A number, because Kubernetes' runAsNonRoot cannot check a user name.
USER 10001:10001
# 8080: health of the worker. 8081, 8082: `flow-worker gateway` and its health.
EXPOSE 8080 8081 8082
# Of the worker. For a gateway: --health-cmd "flow-worker health --url http://127.0.0.1:8082"
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["flow-worker", "health"]
ENTRYPOINT ["flow-worker"]
CMD ["run"]
