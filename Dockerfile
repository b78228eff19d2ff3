# docker build --tag uploader .
# docker run --rm --user "$(id -u):$(id -g)" --volume uploader-state:/state --volume "$PWD:/work" \
#     --env UPLOADER_APP_ID --env UPLOADER_APP_SECRET uploader run manifest.csv

# One patch release of the interpreter on one release of Debian. With a registry at hand pin its digest, too:
# --build-arg BASE=python:3.13.9-slim-trixie@sha256:…
ARG BASE=python:3.13.9-slim-trixie

FROM ${BASE} AS builder

# The environment is filled by the image's own pip and holds none itself: what runs has no use for one.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
WORKDIR /src

# The dependencies come first and alone, so that a change of the code does not fetch them again. Only files whose
# hashes the lock names are taken.
COPY config/requirements.lock config/requirements.lock
RUN pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --no-deps -r config/requirements.lock

# pip fetches the build backend into an environment of its own, which does not reach the image.
COPY pyproject.toml README.md LICENSE ./
COPY uploader uploader
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps .


# The same image as above: the environment's interpreter is a link to this one's.
FROM ${BASE}

LABEL org.opencontainers.image.title="conversation-audio-uploader" \
      org.opencontainers.image.description="Appends audio files to conversations from a manifest: at most once, in order." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.documentation="uploader help container" \
      org.opencontainers.image.licenses="MIT"

# A user for who names none. Anybody may write into /state and /work, so that a new named volume, which takes their mode,
# serves --user of the caller, too; the ledger itself is readable by the user alone who made it.
RUN groupadd --gid 10001 uploader \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin uploader \
    && install --directory --mode=1777 /state /work

COPY --from=builder /opt/venv /opt/venv

# Times follow UTC unless TZ names a zone (--env TZ=Europe/Berlin): --until, {date} and the summary's clock.
# The ledger must outlive the container, or the next one appends everything again: mount /state. There is no VOLUME
# on purpose, since it would hide a forgotten mount behind a nameless volume that goes with the container.
ENV PATH="/opt/venv/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    UPLOADER_LEDGER=sqlite:////state/ledger.db

# Numeric, so that a cluster can see that it is not root.
USER 10001:10001

# Where manifest and recordings are mounted; the results are written beside the manifest.
WORKDIR /work

# The first SIGTERM lets the command end in good order. The exec form makes the command process 1, so that the signal
# reaches it and no shell.
STOPSIGNAL SIGTERM
# Of use to `serve`, and to a run with a status page: set UPLOADER_STATUS to its address. Without it there is nothing to
# ask, and the container counts as healthy.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-m", "uploader.serve.health"]
ENTRYPOINT ["uploader"]
CMD ["--help"]
