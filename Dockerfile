# A CUDA machine for all stages:
#   docker build -t bert-ja . && docker run --gpus all --ipc=host --rm -it -v "$PWD":/work -w /work bert-ja bash
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-pip python3-venv gcc make git \
    && rm -rf /var/lib/apt/lists/*

# Its own environment, first on the PATH, so that `python3 trainer.py` is the one with everything in it.
ENV VIRTUAL_ENV=/opt/bert-ja PATH=/opt/bert-ja/bin:$PATH
RUN python3 -m venv "$VIRTUAL_ENV"
COPY requirements.txt /opt/requirements.txt
RUN pip install --no-cache-dir -r /opt/requirements.txt

WORKDIR /work
COPY . /work
