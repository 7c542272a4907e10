#!/bin/sh
# The policy bench beside the tools that it is compared with, in a venv that is made for it and goes at the end.
set -eu
root=$(cd -- "$(dirname -- "$0")/../../.." && pwd -P)
venv=$(mktemp -d)
trap 'rm -rf -- "$venv"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check 'ansible-core==2.19.14' 'netaddr==1.3.0' 'PyYAML==6.0.3' \
    'aggregate6==1.0.15' 'aerleon==1.18.0'
PYTHONPATH=$root/.collections "$venv/bin/python" "$root/tests/bench/policy/bench.py"
