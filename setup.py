"""Installs `bias_clip`: the losses with a minimal base, training and its tools as extras."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

BASE = ["jax>=0.10", "numpy>=2.0", "scipy>=1.13", "jaxtyping>=0.3"]
TRAIN = [
    "absl-py>=2.1",
    "etils[epath]>=1.9",
    "flax>=0.12",
    "ftfy>=6.1",  # open_clip mends captions with it
    "grain>=0.2.18",
    "importlib_resources>=6",  # tensorflow-datasets imports it without declaring it
    "jinja2>=3.1",
    "ml_collections>=1.0",
    "msgpack>=1.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "pillow>=11",
    "pyarrow>=17",  # tables of annotations and weights
    "array_record>=0.8",
    "sentencepiece>=0.2",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.10",
    "tokenizers>=0.21",  # CLIP's byte pairs, and tokenizer.json
    "tqdm>=4.66",
]
GCS = ["gcsfs>=2025.3"]  # runs and data in buckets of Google Cloud Storage
S3 = ["s3fs>=2025.3"]  # data in buckets of Amazon S3, and of what speaks its protocol
HUB = ["huggingface_hub>=1.0"]  # hf://owner/name, weights of the Hugging Face Hub
HTTP = ["aiohttp>=3.9", "fsspec>=2025.3"]  # data on web servers
# Near copies of images, and languages of captions: measures for filters.
QUALITY = ["imagehash>=4.3", "py3langid>=0.3"]
TEST = [
    *QUALITY,
    *GCS,  # tests/train/workdir/bucket.py is the bucket
    *S3,
    *HTTP,
    *HUB,
    "flask>=3",  # with moto, a bucket of S3 on this machine
    "flask-cors>=5",
    "moto[s3]>=5",
    "beartype>=0.18",
    "clarabel>=0.9",  # an independent solver of M4's problem, through cvxpy
    "cvxpy>=1.6",
    "hypothesis>=6.100",
    "import-linter>=2.1",
    "matplotlib>=3.9",
    "packaging>=24",  # tests read the constraints
    "mypy>=1.13",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "scikit-learn>=1.5",
    "setuptools>=77",  # tests build the wheel
]

setup(
    name="bias_clip",
    version="0.1.0",
    description="Image-text pretraining in JAX, and control over what the models learn.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["bias_clip", "bias_clip.*"]), "bias_clip.configs"],
    package_dir={"bias_clip.configs": "configs"},  # for `bias-clip configs`
    package_data={
        "bias_clip": [
            "py.typed",
            "data/emoji/pack/*",
            "data/text/*.xz",
            "curation/lists/*.txt",
            "evals/suites/files/*.toml",
            "report/templates/*",
        ]
    },
    entry_points={"console_scripts": ["bias-clip = bias_clip.cli.__main__:main"]},
    install_requires=BASE,
    extras_require={
        "train": TRAIN,
        "test": TRAIN + TEST,
        "tpu": ["jax[tpu]>=0.10", *GCS],
        "gcs": GCS,
        "wandb": ["wandb>=0.19"],  # sinks of metrics, see config.sinks
        "trackio": ["trackio>=0.20"],
        "s3": S3,
        "http": HTTP,
        "hub": HUB,
        "quality": QUALITY,
        "cuda": ["jax[cuda12]>=0.10"],
        "experiments": ["matplotlib>=3.9", "optax>=0.2.8", "scikit-learn>=1.5", "tqdm>=4.66"],
        "build": ["resvg-py>=0.2"],  # renders the embedded data set again
        "beam": [
            "apache-beam>=2.70",
            "pyarrow>=17",
        ],  # in an environment of its own: older protobuf
    },
)
