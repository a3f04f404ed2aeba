"""Layouts with a table: FairFace, VisoGender, COCO and Karpathy's splits, CelebA, Waterbirds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.data.records import Source, column
from bias_clip.data.sources.table import table_source
from bias_clip.data.sources.tabular.caption_files import find_images
from bias_clip.data.sources.tabular.delimited import Form, read_delimited
from bias_clip.evals.suites.layouts.data import (
    SuiteData,
    coded,
    need,
    read_lines,
    read_text,
    rows_source,
)

# The order of the codes in the edition that So-B-IT uses; Berg et al. and DataComp have others, which
# is why codes are read by name.
FAIRFACE_RACES = (
    "East Asian",
    "Indian",
    "Black",
    "White",
    "Middle Eastern",
    "Latino_Hispanic",
    "Southeast Asian",
)
FAIRFACE_GENDERS = ("Male", "Female")
FAIRFACE_AGES = (
    "0-2",
    "3-9",
    "10-19",
    "20-29",
    "30-39",
    "40-49",
    "50-59",
    "60-69",
    "more than 70",
)
GENDERS = ("masculine", "feminine")
WATERBIRDS = {"bird": ("landbird", "waterbird"), "background": ("land", "water")}
CELEBA = {"Blond_Hair": ("not blond", "blond"), "Male": ("female", "male")}
SPLITS = ("train", "val", "test")


def read_fairface(path: Path, *, split: str = "val") -> SuiteData:
    """Reads fairface_label_<split>.csv (or <split>_labels.csv) and the images that it names.

    Raises:
      ValueError: a file that is missing, or an age, gender or race of another name. Spreadsheets
        turn ages such as 3-9 into dates.
    """
    # Two names are in circulation for the same table.
    names = [path / f"fairface_label_{split}.csv", path / f"{split}_labels.csv"]
    file = next((name for name in names if name.is_file()), names[0])
    source = table_source(path=str(need(file, "FairFace's labels")), captions=(), image="file")
    lists = {"age": FAIRFACE_AGES, "gender": FAIRFACE_GENDERS, "race": FAIRFACE_RACES}
    codes = {
        key: coded(column(source, key).astype(str).tolist(), values, where=str(file), what=key)
        for key, values in lists.items()
    }
    return SuiteData(source, codes, lists)


def read_visogender(path: Path, *, people: int = 1) -> SuiteData:
    """Reads VisoGender's table of one person (OO) or of two (OP), and images/<IDX>.jpg.

    The suite publishes addresses and no images: images/<IDX>.jpg is our place for them. Rows
    without an address, and rows whose image is not there, are left out and counted in `skipped`.

    Raises:
      ValueError: no table, several of them, or a column that is missing.
    """
    short = {1: "OO", 2: "OP"}[people]
    files = sorted(need(path / short, f"a folder with {short}_Visogender_*.tsv").glob("*.tsv"))
    if len(files) != 1:
        raise ValueError(
            f"{path / short} has {len(files)} tables *.tsv; expected the published one."
        )
    rows = _text_rows(files[0], "\t")
    fields = ["Occupation", "Occupation_perceived_gender", "IDX"]
    fields += ["Participant", "Participant_perceived_gender"] if people == 2 else ["Object"]
    missing = [name for name in fields if name not in rows[0]]
    if missing:
        raise ValueError(f"{files[0]} has no column {missing[0]!r}; it has {sorted(rows[0])}.")
    kept, skipped = [], []
    for row in rows:
        address = next((v for k, v in row.items() if k.startswith("URL")), "")
        image = path / "images" / f"{row['IDX']}.jpg"
        if address in ("", "NA"):
            skipped.append((row["IDX"], "has no address"))
        elif not image.is_file():
            skipped.append((row["IDX"], f"there is no images/{image.name}"))
        else:
            # Only rows with an image: the suite publishes addresses, some of which are dead.
            kept.append({**row, "image_file": f"images/{image.name}", "address": address})
    source = rows_source(path, kept, image="image_file", identity="{IDX}")
    codes: dict[str, np.ndarray] = {}
    names: dict[str, tuple[str, ...]] = {}
    for key in (name for name in fields if name.endswith("gender")):
        codes[key] = coded([row[key] for row in kept], GENDERS, where=str(files[0]), what=key)
        names[key] = GENDERS
    occupations = tuple(dict.fromkeys(row["Occupation"] for row in kept))
    names["Occupation"] = occupations
    codes["Occupation"] = coded(
        [row["Occupation"] for row in kept], occupations, where=str(files[0]), what="Occupation"
    )
    addresses = np.unique([row["address"] for row in kept], return_inverse=True)[1]
    return SuiteData(
        source, codes, names, skipped=tuple(skipped), clusters=addresses, cluster="address"
    )


def read_captions(path: Path, *, split: str | Sequence[str] | None = "test") -> SuiteData:
    """Reads a caption file of COCO, or of Karpathy's splits of COCO and Flickr30k, all captions.

    Args:
      path: the JSON file, or a folder with dataset_coco.json or dataset_flickr30k.json; or
        flickr30k_test_karpathy.txt, CLIP_benchmark's cut of the test split.
      split: of Karpathy's file; None for the others, which have no splits.

    Raises:
      ValueError: what `table_source` raises.
    """
    if path.is_dir():
        found = sorted(path.glob("dataset_*.json"))
        if len(found) != 1:
            raise ValueError(f"{path} has {len(found)} files dataset_*.json; give the path of one.")
        path = found[0]
    if need(path, "a caption file").suffix == ".txt":
        return SuiteData(_flickr_cut(path))
    return SuiteData(table_source(path=str(path), split=split))


def read_celeba(path: Path, *, split: str = "test", images: str | None = None) -> SuiteData:
    """Reads list_attr_celeba and list_eval_partition, as .txt or .csv.

    Where identity_CelebA.txt lies beside them, images of a person are resampled together.

    Args:
      path: folder of the two lists.
      split: train, val or test.
      images: folder of the images; None for img_align_celeba in `path`.

    Raises:
      ValueError: a file that is missing, or lines of another form.
    """
    table = _celeba_table(path, "list_attr_celeba")
    # By file name: the two lists need not be in the same order.
    parts = {row[0]: row[1] for row in _celeba_table(path, "list_eval_partition")[1:]}
    header, rows = table[0], table[1:]
    places = {name: header.index(name) for name in CELEBA if name in header}
    if len(places) < len(CELEBA):
        raise ValueError(f"{path}: the attributes {sorted(CELEBA)} are not all in {header[:5]}...")
    wanted = str(SPLITS.index(split))
    kept = [row for row in rows if parts.get(row[0]) == wanted]
    folder = path / "img_align_celeba" if images is None else Path(images)
    source = rows_source(
        need(folder, "the folder of CelebA's images"),
        [{"file": row[0]} for row in kept],
        image="file",
        identity="{file}",
    )
    codes = {
        name: coded([row[place] for row in kept], ("-1", "1"), where=str(path), what=name)
        for name, place in places.items()
    }
    people = _celeba_people(path, [row[0] for row in kept])
    return SuiteData(
        source, codes, CELEBA, clusters=people, cluster="" if people is None else "person"
    )


def read_waterbirds(path: Path, *, split: str = "test") -> SuiteData:
    """Reads metadata.csv (y, place, split) and the images that it names.

    Raises:
      ValueError: a file or column that is missing, codes other than 0 and 1.
    """
    file = need(path / "metadata.csv", "the table of Waterbirds")
    rows = [row for row in _text_rows(file, ",") if row.get("split") == str(SPLITS.index(split))]
    source = rows_source(path, rows, image="img_filename", identity="{img_id}")
    codes = {
        ours: coded([row[theirs] for row in rows], ("0", "1"), where=str(file), what=theirs)
        for ours, theirs in (("bird", "y"), ("background", "place"))
    }
    return SuiteData(source, codes, WATERBIRDS)


def group_product(data: SuiteData, first: str, second: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes and names of the product of two columns, the first changing slowest."""
    names = tuple(f"{a}, {b}" for a in data.names[first] for b in data.names[second])
    return len(data.names[second]) * data.codes[first] + data.codes[second], names


def _flickr_cut(path: Path) -> Source:
    """A header, then name.jpg,caption; a caption may hold commas, so a line is split at ".jpg,"."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path, "captions").split("\n")[1:], 2):
        if not line.strip():  # such as after the last line feed
            continue
        name, comma, text = line.partition(".jpg,")
        if not comma:
            raise ValueError(
                f"{path}, line {number}: got {line[:80]!r}; expected name.jpg,caption."
            )
        captions.setdefault(f"{name}.jpg", []).append(text)
    rows: list[dict[str, Any]] = [
        {"file_name": name, "captions": texts} for name, texts in captions.items()
    ]
    root, image = find_images(rows, path.parent)
    return rows_source(root, rows, image=image, identity="{file_name}", captions=("captions",))


def _text_rows(file: Path, separator: str) -> list[dict[str, str]]:
    # As text: numbers in these tables are codes, which are compared as they are written.
    table = read_delimited(file, Form(separator=separator)).to_pylist()
    if not table:
        raise ValueError(f"{file} has no rows.")
    return [{key: value or "" for key, value in row.items()} for row in table]


def _celeba_people(path: Path, files: Sequence[str]) -> np.ndarray | None:
    """The number of the person on each image, from identity_CelebA.txt; None without that file."""
    file = path / "identity_CelebA.txt"
    if not file.is_file():
        return None
    person_of = dict(line.split() for line in read_lines(file, "an image and a person per line"))
    missing = [name for name in files if name not in person_of]
    if missing:
        raise ValueError(f"{file} has no person of {missing[0]}, and {len(missing) - 1} more.")
    return np.unique([person_of[name] for name in files], return_inverse=True)[1]


def _celeba_table(path: Path, name: str) -> list[list[str]]:
    """Header and rows; the .txt of the attributes has a count before them, that of the parts neither."""
    comma = path / f"{name}.csv"
    if comma.is_file():
        return [line.split(",") for line in read_lines(comma, "a row per image")]
    cells = [line.split() for line in read_lines(path / f"{name}.txt", f"{name}.txt or .csv")]
    if name == "list_eval_partition":
        return [["image_id", "partition"], *cells]
    # The count shows a download that was cut off.
    if len(cells[0]) != 1 or len(cells) != 2 + int(cells[0][0]):
        raise ValueError(f"{path / name}.txt counts {cells[0]} rows and has {len(cells) - 2}.")
    return [["image_id", *cells[1]], *cells[2:]]
