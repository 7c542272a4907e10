#!/bin/sh
# The main job on real devices: four of them as their factories made them, two networks, and an attacker on each.
# Open before, closed after, the operator still in. Sets everything up, and leaves nothing behind but the report.
# usage: scripts/demo.sh [--keep]     --keep leaves the lab running, to look around in it
set -eu
cd -- "$(dirname -- "$0")/.."

keep=no
[ "${1:-}" != --keep ] || keep=yes
SALLYPORT_LAB=demo
ANSIBLE_FORCE_COLOR=${ANSIBLE_FORCE_COLOR:-$([ -t 1 ] && echo 1 || echo 0)}
# The logs below are read for their recap; a site's own settings must not change its form.
ANSIBLE_STDOUT_CALLBACK=ansible.builtin.default
export SALLYPORT_LAB ANSIBLE_FORCE_COLOR ANSIBLE_STDOUT_CALLBACK
PATH=$PWD/.venv/bin:$PATH
logs=.sallyport/demo
report=.sallyport/demo/report

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
play() { ansible-playbook -i inventories/lab "$@"; }

finish() {
  status=$?
  trap - EXIT INT TERM
  if [ "$keep" = yes ]; then
    printf '\nThe lab is still running. Look around: SALLYPORT_LAB=demo ansible -i inventories/lab all --list-hosts\n'
    printf 'Stop it with: lab/lab down --prefix demo\n'
  else
    as_root lab/lab down --prefix demo >/dev/null || :
  fi
  if [ "$status" -eq 0 ]; then
    printf '\nDEMO PASSED. The report: %s/audit.html\n' "$report"
  else
    printf '\nDEMO FAILED (status %s). What was said: %s/*.log\n' "$status" "$logs"
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

timed() { # LOG COMMAND...: shows and keeps the output, and says how long it took
  log=$logs/$1.log
  shift
  began=$(date +%s%N)
  # A pipe would hide the command's status, and Ctrl-C must reach it.
  mkfifo "$logs/pipe"
  tee "$log" <"$logs/pipe" &
  shown=$!
  code=0
  "$@" >"$logs/pipe" 2>&1 || code=$?
  wait "$shown"
  rm -f "$logs/pipe"
  awk -v began="$began" -v ended="$(date +%s%N)" 'BEGIN { printf "(%.1f s)\n", (ended - began) / 1e9 }'
  return "$code"
}

step "1/6 Set-up"
rm -rf "$logs"
mkdir -p "$logs"
scripts/setup.sh

step "2/6 Four devices as shipped, two networks, a vantage point on each"
as_root lab/lab up --prefix demo

step "3/6 What an attacker sees before"
timed before play audit.yml -e audit_enforce=false -e "audit_report_dir=$PWD/$report/before"

step "4/6 Harden"
timed harden play harden.yml

step "5/6 What an attacker sees after, compared with what the policy says"
timed after play audit.yml -e "audit_report_dir=$PWD/$report"

step "6/6 The same run again changes nothing"
timed again play harden.yml
if grep -Eq 'changed=[1-9]|failed=[1-9]|unreachable=[1-9]' "$logs/again.log"; then
  printf 'The second run changed something: see %s/again.log\n' "$logs"
  exit 1
fi
