# Trains on NVIDIA GPUs: the image of `bias-clip launch kubernetes --gpus-per-node=8`, see docs/pods.md.
#   docker build -f docker/gpu.Dockerfile -t REGISTRY/bias_clip:1 .
# It has not been built here, where there is no docker; a test checks its files, extras and versions.
# CUDA comes with the extra "cuda"; the host needs NVIDIA's driver and container toolkit alone.
FROM python:3.13-slim

WORKDIR /app
COPY constraints.txt setup.py pyproject.toml README.md LICENSE NOTICE ./
COPY bias_clip bias_clip
COPY configs configs
RUN pip install --no-cache-dir ".[train,gcs,cuda]" -c constraints.txt

# configs/ stays in /app, so that --config=configs/siglip_b16.py is the same path as in a checkout.
ENTRYPOINT ["bias-clip"]
CMD ["--help"]
