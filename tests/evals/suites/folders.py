"""Small data sets in the published layouts, made in a folder."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.data.image import encode_png

PNG = encode_png(np.zeros((4, 4, 3), np.uint8))
RACES = (
    "East Asian",
    "Indian",
    "Black",
    "White",
    "Middle Eastern",
    "Latino_Hispanic",
    "Southeast Asian",
)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


def tars(
    folder: Path, samples: list[dict[str, bytes]], *, texts: dict[str, str], split: str = "test"
) -> Path:
    """Two shards, numbers going on across them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    half = (len(samples) + 1) // 2
    for shard, start in enumerate((0, half)):
        members = {
            f"s{start + i:07d}.{kind}": data
            for i, sample in enumerate(samples[start : start + half])
            for kind, data in sample.items()
        }
        write_tar(folder / split / f"{shard}.tar", members)
    (folder / split / "nshards.txt").write_text("2\n")
    return folder


def images(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)


def fairface(folder: Path, *, number: int = 14) -> Path:
    rows = ["file,age,gender,race,service_test"]
    names = [f"val/{i}.jpg" for i in range(number)]
    for i, name in enumerate(names):
        rows.append(f"{name},20-29,{('Male', 'Female')[i % 2]},{RACES[i % 7]},True")
    images(folder, names)
    (folder / "fairface_label_val.csv").write_text("\n".join(rows) + "\n")
    return folder


def visogender(folder: Path) -> Path:
    one = ["IDX\tSector\tSpecialisation\tOccupation\tObject\tURL type (Type NA if can't find)\t"
           "LICENSE OK?\tOccupation_perceived_gender\tError codes\tAnnotator"]  # fmt: skip
    two = [one[0].replace("Object", "Participant").replace(
        "Occupation_perceived_gender", "Occupation_perceived_gender\tParticipant_perceived_gender")]  # fmt: skip
    for i in range(8):
        gender = "masculine" if i < 4 else "feminine"
        other = "masculine" if i % 2 else "feminine"
        job = ("teacher", "guard")[i % 2]
        address = "NA" if i == 7 else "https://images.example.invalid/1.jpg"
        one.append(f"OO_{i}\ta\tb\t{job}\tboard\t{address}\tYes\t{gender}\t\tA")
        two.append(f"OP_{i}\ta\tb\t{job}\tstudent\t{address}\tYes\t{gender}\t{other}\t\tA")
    for short, lines, end in (("OO", one, "\r\n"), ("OP", two, "\n")):
        (folder / short).mkdir(parents=True)
        (folder / short / f"{short}_Visogender_1.tsv").write_bytes((end.join(lines) + end).encode())
    images(folder, [f"images/{short}_{i}.jpg" for short in ("OO", "OP") for i in range(7)])
    return folder


def karpathy(folder: Path) -> Path:
    rows = []
    for i in range(6):
        texts = [f"a man, image {i}, text {j}" for j in range(5 + (i == 2))]
        sentences = [
            {"raw": t, "tokens": t.split(), "imgid": i, "sentid": j} for j, t in enumerate(texts)
        ]
        split = "test" if i % 2 == 0 else "train"
        rows.append(
            {
                "filename": f"{i}.jpg",
                "imgid": i,
                "sentids": [],
                "split": split,
                "sentences": sentences,
            }
        )
    folder.mkdir(parents=True)
    (folder / "dataset_flickr30k.json").write_text(
        json.dumps({"dataset": "flickr30k", "images": rows})
    )
    images(folder, [f"flickr30k-images/{i}.jpg" for i in range(6)])
    return folder
