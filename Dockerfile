# docker build --tag uploader .
# docker run --rm --volume uploader-state:/state --volume "$PWD:/work" uploader run manifest.csv

FROM python:3.13-slim AS builder

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
FROM python:3.13-slim

LABEL org.opencontainers.image.title="conversation-audio-uploader" \
      org.opencontainers.image.description="Appends audio files to conversations from a manifest: at most once, in order." \
      org.opencontainers.image.licenses="MIT"

# A fixed number, because a mounted folder belongs to a number, not to a name. /state is the user's, so that a new
# named volume mounted there is too; a folder of the host mounted there must be writable for 10001.
RUN groupadd --gid 10001 uploader \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin uploader \
    && install --directory --mode=0700 --owner=10001 --group=10001 /state \
    && install --directory --mode=0755 --owner=10001 --group=10001 /work

COPY --from=builder /opt/venv /opt/venv

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
ENTRYPOINT ["uploader"]
CMD ["--help"]
