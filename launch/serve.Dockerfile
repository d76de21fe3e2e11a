# A server of one model, which is mounted at /model. Build it by
#   launch/image.sh --dockerfile serve.Dockerfile --tag TAG --accelerator cpu
# and try it by
#   docker run --rm -p 8000:8000 -v "$PWD/MODEL:/model:ro" TAG
FROM python:3.11-slim
# cpu, cuda12, cuda13 or tpu: what jax is to run on.
ARG ACCELERATOR=cpu
WORKDIR /maskclip_jax
COPY requirements.txt pyproject.toml README.md LICENSE ./
COPY maskclip_jax maskclip_jax
COPY configs configs
RUN pip install --no-cache-dir -r requirements.txt && \
  if [ "${ACCELERATOR}" != cpu ]; then \
    pip install --no-cache-dir \
      "jax[${ACCELERATOR}]==$(python -c 'import jax; print(jax.__version__)')"; \
  fi && \
  pip install --no-cache-dir -e '.[serve]' && \
  useradd --uid 10001 --create-home server && \
  install --directory --owner server /cache
USER 10001
# Compiled programs: keep it, and the next start takes seconds.
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m CMD \
  ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "maskclip_jax", "serve", "--host", "0.0.0.0", \
  "--cache_dir", "/cache"]
CMD ["--model", "/model"]
