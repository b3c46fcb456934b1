# A Prefect worker that runs Slimline's flows; the same image serves Prefect, MLflow and the endpoint service in compose.yaml.
#   docker build -f docker/worker.Dockerfile -t slimline-worker:0.1.0 .
# The base is pinned by version; pin your own build by digest: --build-arg PYTHON=3.11.14-slim-bookworm@sha256:…
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# With pip: an engine's environment is built on demand, and demo models are packages of a registry.
RUN python -m venv /venv
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY deployments deployments
# Editable, so that `flows/...` entrypoints of prefect.yaml and the imported packages are the same files.
RUN /venv/bin/pip install --constraint constraints.txt --editable ".[server]"

FROM python:${PYTHON}

RUN groupadd --gid 10001 slimline && useradd --uid 10001 --gid slimline --create-home --shell /usr/sbin/nologin slimline \
 && install -d -o slimline -g slimline /data
COPY --from=build /venv /venv
COPY --from=build /app /app

WORKDIR /app
# hadolint ignore=DL3064
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SLIMLINE_HOME=/data \
    PREFECT_HOME=/data/prefect \
    PREFECT_LOCAL_STORAGE_PATH=/data/results \
    PREFECT_RESULTS_DEFAULT_SERIALIZER=json \
    PREFECT_RESULTS_PERSIST_BY_DEFAULT=true \
    PREFECT_LOGGING_EXTRA_LOGGERS=tasks \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1 \
    PREFECT_WORKER_WEBSERVER_PORT=4313 \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=1 \
    TOKENIZERS_PARALLELISM=false \
    OMP_WAIT_POLICY=PASSIVE \
    GOMP_SPINCOUNT=0
LABEL org.opencontainers.image.title=slimline-worker \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.licenses=Apache-2.0
VOLUME /data
USER 10001:10001
STOPSIGNAL SIGTERM
# Of the worker; compose.yaml has one for each other service.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PREFECT_WORKER_WEBSERVER_PORT'] + '/health', timeout=4)"]
CMD ["prefect", "worker", "start", "--pool", "slimline", "--type", "process", "--with-healthcheck"]
