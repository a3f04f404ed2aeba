#!/usr/bin/env bash
# Everything that must hold before a change is sent: format, lint, import contracts, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
ruff format --check .
ruff check .
lint-imports
mypy
python -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal -m "not slow" "$@"
