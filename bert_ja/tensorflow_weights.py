"""PyTorch weights of a folder to WORK/tensorflow/tf_model.h5, and what TensorFlow makes of some batches.

Runs in .venv-tensorflow, which has transformers 4 and nothing of ours; formats.py starts it and compares:

    .venv-tensorflow/bin/python bert_ja/tensorflow_weights.py FOLDER WORK
"""

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}
PACKAGES = ("transformers", "tensorflow-cpu", "tf-keras", "torch")


def main(folder: Path, work: Path) -> None:
    import numpy as np
    from transformers import TFBertForPreTraining

    written = work / "tensorflow"
    TFBertForPreTraining.from_pretrained(folder, from_pt=True).save_pretrained(written)
    shutil.copyfile(folder / "model.safetensors", written / "model.safetensors")  # as in a release
    shutil.copyfile(folder / "config.json", written / "config.json")
    model = TFBertForPreTraining.from_pretrained(written, use_safetensors=False)  # else it reads that file, and fails
    for file in sorted(work.glob("batch-*.npz")):
        with np.load(file) as batch:
            output = model({name: batch[name] for name in batch.files}, training=False)
        logits = {"mlm": output.prediction_logits.numpy(), "nsp": output.seq_relationship_logits.numpy()}
        np.savez(work / file.name.replace("batch", "logits"), **logits)
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    (work / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
