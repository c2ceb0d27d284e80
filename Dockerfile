# Builds with BuildKit and with the classic builder, on python:3.11-slim-bookworm or any Debian bookworm that has
# Python 3.11 with its venv module and certificates (python3, python3-venv, ca-certificates).
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS product

# The platform runs the image as this user: it must be in /etc/passwd and own a home.
RUN groupadd --gid 1000 petct && useradd --uid 1000 --gid petct --create-home --shell /bin/sh petct
# Nobody in the image needs another's rights (su, mount, passwd).
RUN find / -xdev -type f -perm /6000 -exec chmod ug-s {} +

# Debian forbids pip outside a virtual environment; one works on every base.
RUN python3 -c "import sys; sys.exit(sys.version_info[:2] != (3, 11) and 'base image: Python must be 3.11, got ' + sys.version)" \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}

WORKDIR /opt/app
COPY requirements.txt requirements.lock requirements-build.lock ./
# Every file by its SHA-256; what comes as source is built with what is locked, too.
RUN pip="python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes" \
    && $pip --requirement requirements-build.lock \
    && $pip --no-build-isolation --requirement requirements.lock

# The root file system is read-only on the platform, the home included: every cache goes to /tmp.
ENV LANG=C.UTF-8 \
    LC_ALL=C.UTF-8 \
    PYTHONUTF8=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    XDG_CONFIG_HOME=/tmp/config \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    NUMBA_CACHE_DIR=/tmp/cache/numba \
    TORCH_HOME=/tmp/cache/torch \
    TRITON_CACHE_DIR=/tmp/cache/triton \
    CUDA_CACHE_PATH=/tmp/cache/cuda

COPY inference.py pyproject.toml ./
COPY operation operation
COPY petct petct
COPY segmentation segmentation
COPY postprocessing postprocessing
COPY resources resources
# The image's own networks, converted for CPUs; what this leaves in /tmp would belong to root, where the user writes.
RUN python -m segmentation.convert resources/demo.toml --into openvino_networks && rm -rf /tmp/*
# Files keep the modes they had where the image was built; the image's user must be able to read them.
RUN find /opt/app \( -type d ! -perm -005 -o -type f ! -perm -004 \) -exec chmod a+rX {} +

ARG BASE_IMAGE
ARG VERSION=unknown
LABEL org.opencontainers.image.title="psma-fdg-ttb" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

USER petct
ENTRYPOINT ["python", "-P", "/opt/app/operation/first_process.py"]

# build.sh --api invoke: one process for many cases, asked over HTTP.
FROM product AS invoke
LABEL org.grand-challenge.api-method="invoke"
EXPOSE 4743
CMD ["serve"]

# build.sh, and what is built without a target: one process for one case. The platform takes no label for this one.
FROM product AS exec
