# Slimline's inference container: tasks/serving and what it imports, no Prefect, no cloud library.
#   docker build -f docker/inference.Dockerfile -t slimline-inference:0.1.0 .
# On CPU instances a CPU build of torch makes the image smaller: --build-arg PIP_EXTRA_INDEX_URL=<index of CPU wheels>
# SageMaker starts it as `docker run IMAGE serve`, with the model in /opt/ml/model.
# The base is pinned by version; pin your own build by digest: --build-arg PYTHON=3.11.14-slim-bookworm@sha256:…
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Without pip: what runs installs nothing.
RUN python -m venv --without-pip /venv
COPY constraints.txt /build/constraints.txt
RUN pip --python /venv/bin/python install --only-binary=:all: --constraint /build/constraints.txt \
      torch transformers tokenizers safetensors compressed-tensors numpy onnxruntime uvicorn

FROM python:${PYTHON}

RUN groupadd --gid 10001 slimline && useradd --uid 10001 --gid slimline --no-create-home --shell /usr/sbin/nologin slimline
COPY --from=build /venv /venv
COPY tasks/__init__.py /app/tasks/__init__.py
COPY tasks/gptq_codes.py /app/tasks/gptq_codes.py
COPY tasks/serving /app/tasks/serving

WORKDIR /app
# hadolint ignore=DL3064
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/huggingface \
    TOKENIZERS_PARALLELISM=false \
    OMP_WAIT_POLICY=PASSIVE \
    GOMP_SPINCOUNT=0
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true \
      org.opencontainers.image.title=slimline-inference \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.licenses=Apache-2.0
EXPOSE 8080
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=2s --start-period=300s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('SAGEMAKER_BIND_TO_PORT', '8080') + '/ping', timeout=2)"]
ENTRYPOINT ["python", "-m", "tasks.serving.container"]
CMD ["serve"]
