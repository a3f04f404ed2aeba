# Trains on TPUs: the image of `bias-clip launch kubernetes --tpu=tpu-v5-lite-podslice`, see docs/pods.md.
#   docker build -f docker/tpu.Dockerfile -t REGISTRY/bias_clip:1 .
# It has not been built here, where there is no docker; a test checks its files, extras and versions.
# libtpu comes with the extra "tpu", gcsfs too.
FROM python:3.13-slim

WORKDIR /app
COPY constraints.txt setup.py pyproject.toml README.md LICENSE NOTICE ./
COPY bias_clip bias_clip
COPY configs configs
RUN pip install --no-cache-dir ".[train,tpu]" -c constraints.txt

# configs/ stays in /app, so that --config=configs/siglip_b16.py is the same path as in a checkout.
ENTRYPOINT ["bias-clip"]
CMD ["--help"]
