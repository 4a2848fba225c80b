# The exporter in two stages: the wheel and its pinned requirements are installed into /opt/tpw, and only that is copied
# into an image without compilers or caches. The extras for basic auth and holidays are in it: nobody can add them later.
# The base has glibc because the NVIDIA container runtime injects the driver's libnvidia-ml.so.1, which is linked against it.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /src
COPY requirements/ requirements/
RUN python -m venv /opt/build && python -m venv /opt/tpw \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt \
 && /opt/tpw/bin/pip install --no-cache-dir --require-hashes -r requirements/image.txt
COPY pyproject.toml README.md LICENSE ./
COPY exporter/ exporter/
COPY deploy/runbooks/ deploy/runbooks/
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /src/dist . \
 && /opt/tpw/bin/pip install --no-cache-dir --no-deps /src/dist/*.whl \
 && /opt/tpw/bin/pip uninstall --yes pip setuptools

FROM python:${PYTHON_VERSION}-slim
# Of the build: --build-arg VERSION=$(...) and so on (docs/kubernetes.md, section The image). A label without a value is empty.
ARG PYTHON_VERSION
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="tpw-exporter" \
      org.opencontainers.image.description="Prometheus exporter for tokens per watt and cost per token of LLM inference servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="docker.io/library/python:${PYTHON_VERSION}-slim"
COPY --from=build /opt/tpw /opt/tpw
# The books must outlive the container: mount something here. The directory belongs to the user so that a named volume does.
RUN install -d -o 10101 -g 10101 -m 0750 /var/lib/tpw-exporter
# NVIDIA_*: what the NVIDIA container runtime injects: every GPU, and of the driver only NVML.
ENV PATH=/opt/tpw/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility \
    TPW_STATE_DIR=/var/lib/tpw-exporter
USER 10101:10101
VOLUME ["/var/lib/tpw-exporter"]
EXPOSE 10101
STOPSIGNAL SIGTERM
# Override where the port or TLS differs; Kubernetes ignores it and uses its own probes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:10101/-/healthy', timeout=4)"]
ENTRYPOINT ["tpw-exporter"]
CMD ["run"]
