# The trainer, built from the root of the repository:
#   docker build -f launch/trainer.Dockerfile .
FROM python:3.12-slim

# jax[cuda12] for NVIDIA GPUs, jax[tpu] for TPUs, jax for none.
ARG JAX=jax[cuda12]

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt "$JAX"
COPY lmtx_jax lmtx_jax
COPY configs configs

ENV LMTX_CACHE=/cache
VOLUME ["/cache", "/app/runs"]
ENTRYPOINT ["python", "-m", "lmtx_jax.main"]
