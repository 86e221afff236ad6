# One image for the API and the workers, in two variants:
#   docker build --build-arg VARIANT=cpu --build-arg TORCH_INDEX_URL=<PyTorch's index of CPU wheels> -t espalier:cpu .
#   docker build --build-arg VARIANT=cuda -t espalier:cuda .
# Without TORCH_INDEX_URL pip takes PyTorch's default wheel, which on Linux brings CUDA: it works, and is gigabytes larger.
ARG PYTHON=3.11-slim-bookworm
ARG VARIANT=cpu

FROM python:${PYTHON} AS build
ARG TORCH_INDEX_URL=""
SHELL ["/bin/sh", "-euc"]
WORKDIR /src
RUN python -m venv /opt/espalier
ENV PATH=/opt/espalier/bin:$PATH
COPY constraints.txt ./
# torch in a layer of its own: by far the largest, and the one that changes least.
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY state state
COPY service service
COPY worker worker
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[service,worker]'

FROM python:${PYTHON} AS runtime
RUN groupadd --system --gid 10001 espalier \
    && useradd --system --uid 10001 --gid espalier --no-create-home --home-dir /var/lib/espalier --shell /usr/sbin/nologin espalier \
    && install -d -o espalier -g espalier -m 0750 /var/lib/espalier
COPY --from=build /opt/espalier /opt/espalier
ENV PATH=/opt/espalier/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ESPALIER_HOME=/var/lib/espalier
WORKDIR /var/lib/espalier
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-m", "service.healthcheck"]
CMD ["python", "-m", "service.api"]

FROM runtime AS runtime-cpu
ENV ESPALIER_DEVICE=cpu

FROM runtime AS runtime-cuda
ENV ESPALIER_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM runtime-${VARIANT}
