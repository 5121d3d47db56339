# A wheel is built in one stage; the other holds Python, the wheel and what it needs, nothing else.
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[postgresql]'

FROM python:3.13-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'roiservice[postgresql]'

# Kernels are compiled once, here, for any x86-64 or arm64 processor: the cache is valid wherever the image runs.
ENV NUMBA_CACHE_DIR=/var/cache/roiservice/numba \
    NUMBA_CPU_NAME=generic \
    ROISERVICE_CATALOG_DIR=/var/cache/roiservice/catalogs \
    ROISERVICE_STATE_DIR=/var/lib/roiservice
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin roiservice \
    && mkdir -p "$NUMBA_CACHE_DIR" "$ROISERVICE_CATALOG_DIR" "$ROISERVICE_STATE_DIR" /data \
    && chown -R roiservice /var/cache/roiservice "$ROISERVICE_STATE_DIR"
USER roiservice
RUN roiservice warm-up

# The registry of lasting ids; catalogs can be made again.
VOLUME ["/var/lib/roiservice", "/var/cache/roiservice/catalogs"]
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["roiservice"]
# A container has an address of its own; what reaches it is for whoever publishes the port to decide.
CMD ["serve", "--host", "0.0.0.0", "--public-address", "--port", "8080", "/data"]
