# selector on a CPU: docker run --rm -v "$PWD/photos:/data" -v "$PWD/runs:/runs" selector scan /data --out /runs/photos
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    SELECTOR_CACHE=/cache \
    SELECTOR_STORE=/cache/store \
    SELECTOR_HISTORY=/cache/history.db

# The newest versions that fit are wanted: pins are in pyproject.toml where they are needed.
# hadolint ignore=DL3013
RUN pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY pyproject.toml README.md LICENSE zoo.yaml ./
COPY selector ./selector
# hadolint ignore=DL3013
RUN pip install ".[demo,text,onnx]" && rm -rf /src

RUN useradd --create-home --uid 1000 user && mkdir /cache /runs && chown 1000 /cache /runs
USER 1000
WORKDIR /runs
VOLUME ["/cache", "/runs"]

ENTRYPOINT ["selector"]
CMD ["--help"]
