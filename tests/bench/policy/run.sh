#!/bin/sh
# The policy bench with the tools that it is compared with, in a venv of its own under .cache.
set -eu
root=$(cd -- "$(dirname -- "$0")/../../.." && pwd -P)
venv=$root/.cache/bench-policy
if [ ! -x "$venv/bin/python" ]; then
    mkdir -p "$root/.cache"
    "${PYTHON:-$root/.venv/bin/python}" -m venv "$venv"
    "$venv/bin/pip" install -q 'netaddr==1.3.0' PyYAML ansible-core==2.19.14
fi
for tool in aggregate6 aerleon; do
    "$venv/bin/pip" install -q --disable-pip-version-check "$tool" 2>/dev/null || printf '%s cannot be installed here: its figures are left out\n' "$tool"
done
PYTHONPATH=$root/.collections exec "$venv/bin/python" "$root/tests/bench/policy/bench.py"
