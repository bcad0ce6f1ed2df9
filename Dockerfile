# One image for every command: `docker build -t commerce-core .`, then `docker run commerce-core COMMAND`. It writes
# only to /tmp, so `--read-only --tmpfs /tmp` works.

FROM python:3.13-slim AS build
# For a package index of your own: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
RUN python -m venv --without-pip /venv && mkdir /data
COPY requirements.txt /
RUN pip --python /venv/bin/python install --no-cache-dir --require-hashes -r /requirements.txt
WORKDIR /app
COPY service service
COPY sql sql
COPY migrations migrations
# Readable to every user, whatever the checkout's umask. Compiled here, because the image is read-only at run time.
RUN chmod -R a+rX . && python -m compileall -q --invalidation-mode unchecked-hash service

FROM python:3.13-slim
LABEL org.opencontainers.image.title="commerce-core" \
      org.opencontainers.image.description="Catalogue, carts, checkout with reserved stock, Stripe payments"
# yoyo records the user's name and fails for a user id without one, unless USER is set.
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 USER=commerce
COPY --from=build /venv /venv
# compose.yaml mounts the Stripe stand-in's volume here; a new volume takes this folder's owner.
COPY --from=build --chown=10001:10001 /data /data
COPY --from=build /app /app
WORKDIR /app
# A number, so that Kubernetes' runAsNonRoot can check it.
USER 10001:10001
EXPOSE 8080
# For `serve`; override it for other commands. http.client ignores proxy settings, unlike urllib.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve", "--host", "0.0.0.0"]
