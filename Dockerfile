# One image for the API, for workers and for commands: `gristmill` is its entry point.
# The Postgres is a container of its own (docker-compose.yml), so the embedded one is not in it.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/gristmill
COPY requirements-service.txt /src/
RUN /opt/gristmill/bin/pip install --require-hashes --requirement /src/requirements-service.txt
COPY pyproject.toml README.md /src/
COPY migrations /src/migrations
COPY src /src/src
RUN /opt/gristmill/bin/pip install --no-deps /src

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /data gristmill
COPY --from=build /opt/gristmill /opt/gristmill
# Migrations run on start unless GRISTMILL_MIGRATE_ON_START=false; `gristmill migrate` runs them by hand.
ENV PATH=/opt/gristmill/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GRISTMILL_HOST=0.0.0.0 \
    GRISTMILL_PORT=8000 \
    GRISTMILL_DATA_DIR=/data \
    GRISTMILL_LOG_FORMAT=json
USER gristmill
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["gristmill"]
CMD ["serve"]
