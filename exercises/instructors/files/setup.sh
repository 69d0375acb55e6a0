#!/usr/bin/env bash
# Gradescope runs this once, when the autograder is built. Python 3.11 or newer is needed.
set -euo pipefail
cd "${AUTOGRADER:-/autograder}/source"

newest() {
  for version in 3.14 3.13 3.12 3.11; do
    if "python$version" -c "import ensurepip, venv" 2> /dev/null; then echo "python$version"; return; fi
  done
}

python=$(newest)
if [ -z "$python" ]; then
  apt-get update
  apt-get install -y python3.12 python3.12-venv || apt-get install -y python3.11 python3.11-venv
  python=$(newest)
fi
"$python" -m venv .venv
.venv/bin/pip install -r requirements.txt
.venv/bin/python -m exercises list
