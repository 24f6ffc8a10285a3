# docker build -t happy-server-light . && docker run -p 3005:3005 -v happy:/data happy-server-light
# Build arguments: EXTRAS=full for PostgreSQL, Redis and S3; CONSTRAINTS=tests/lowest.txt for the lowest versions.
FROM python:3.13-slim AS build
ARG EXTRAS=
ARG CONSTRAINTS=packaging/newest.txt
WORKDIR /src
COPY . .
RUN python -m venv /opt/happy && /opt/happy/bin/pip install --no-cache-dir --constraint "$CONSTRAINTS" ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.13-slim
RUN useradd --system --uid 3005 --home-dir /data --no-create-home happy && install -d -o happy -g happy -m 0700 /data /backups
COPY --from=build /opt/happy /opt/happy
ENV PATH=/opt/happy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HAPPY_SERVER_LIGHT_DATA_DIR=/data \
    HOST=0.0.0.0 \
    METRICS_HOST=0.0.0.0
USER happy
VOLUME /data
EXPOSE 3005 9090
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["happy-server-light", "health", "--quiet"]
CMD ["happy-server-light"]
