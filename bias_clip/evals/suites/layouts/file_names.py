"""Layouts whose labels are in the names of the image files: UTKFace and SISPI."""

import re
from pathlib import Path

import numpy as np

from bias_clip.evals.suites.layouts.data import SuiteData, need, rows_source
from bias_clip.evals.suites.sispi import ETHNICITIES, GENDERS, read_names

UTKFACE_GENDERS = ("male", "female")
UTKFACE_RACES = (
    "white",
    "black",
    "asian",
    "indian",
    "others",
)  # the order of the names, not DataComp's
_UTKFACE = re.compile(r"(\d{1,3})_([01])_([0-4])_(\d+)\.jpg(\.chip\.jpg)?")
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def read_utkface(path: Path) -> SuiteData:
    """Reads [age]_[gender]_[race]_[date and time].jpg, with or without .chip.jpg.

    Names of another form, of which the published set has a few, are left out and in `skipped`.

    Raises:
      ValueError: no such folder, or no file of that form.
    """
    rows, skipped = [], []
    for file in _files(path):
        match = _UTKFACE.fullmatch(file)
        if match is None:
            skipped.append((file, "is not named age_gender_race_date.jpg"))
            continue
        # The fourth group is the date and time of the file, of no use here.
        age, gender, race = (int(part) for part in match.groups()[:3])
        rows.append({"file": file, "age": age, "gender": gender, "race": race})
    source = rows_source(path, rows, image="file", identity="{file}")
    codes = {
        key: np.array([row[key] for row in rows], np.int64) for key in ("age", "gender", "race")
    }
    names = {"gender": UTKFACE_GENDERS, "race": UTKFACE_RACES}
    return SuiteData(source, codes, names, skipped=tuple(skipped))


def read_sispi(path: Path) -> SuiteData:
    """Reads profession_number_gender_ethnicity.jpg.

    Raises:
      ValueError: no such folder, no images, or what `read_names` raises.
    """
    files = _files(path)
    people = read_names(files)
    professions = tuple(dict.fromkeys(people.profession))
    source = rows_source(path, [{"file": file} for file in files], image="file", identity="{file}")
    codes = {
        "profession": np.array([professions.index(p) for p in people.profession], np.int64),
        "gender": people.gender,
        "ethnicity": people.ethnicity,
    }
    names = {"profession": professions, "gender": GENDERS, "ethnicity": ETHNICITIES}
    return SuiteData(source, codes, names)


def _files(path: Path) -> list[str]:
    folder = need(path, "a folder of images")
    return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in _ENDINGS)
