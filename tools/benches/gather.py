"""Joins what `gpu.sh` measured into one record: the card, the versions, the date, each part or its failure.

python -m tools.benches.gather runs/gpu > gpu.json
"""

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "open_clip_torch", "scikit-learn")


def main() -> None:
    """Prints the record of a folder."""
    import jax

    record = {"card": jax.devices()[0].device_kind, **gather(Path(sys.argv[1]))}
    print(json.dumps(record, indent=1))


def gather(folder: Path) -> dict[str, Any]:
    """Returns the date, the versions, and under "parts" each part's own record or why there is none.

    Args:
      folder: of NAME.json and NAME.failed files.
    """
    parts: dict[str, Any] = {}
    for path in sorted(folder.glob("*.failed")):
        parts[path.stem] = {"failed": path.read_text().strip()}
    for path in sorted(folder.glob("*.json")):
        if path.name != "gpu.json":
            parts[path.stem] = parts.get(path.stem, {}) | {"result": json.loads(path.read_text())}
    metrics = folder / "emoji" / "metrics.jsonl"
    if metrics.exists():  # the main job writes its own numbers
        last = metrics.read_text().splitlines()[-1]
        parts["main-job"] = parts.get("main-job", {}) | {"result": json.loads(last)}
    return {"date": datetime.now(UTC).date().isoformat(), "versions": _versions(), "parts": parts}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # it was not measured
    return found


if __name__ == "__main__":
    main()
