"""Which commit of the code ran, read from the files of git: there need be no git to call."""

from pathlib import Path


def commit_of(folder: Path) -> str | None:
    """Returns the commit that is checked out in `folder`; None where it is not a checkout of its own.

    Changes that were not committed are not seen.

    Args:
      folder: the top of a checkout, main or worktree.
    """
    git = folder / ".git"
    if git.is_file():  # of a worktree: "gitdir: <its own folder in the main checkout>"
        git = folder / git.read_text().partition("gitdir:")[2].strip()
    if not (git / "HEAD").is_file():
        return None
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head
    name = head.removeprefix("ref:").strip()
    shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
    for place in (git, shared):
        if (place / name).is_file():
            return (place / name).read_text().strip()
    return _packed(shared / "packed-refs", name)


def _packed(path: Path, name: str) -> str | None:
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)
