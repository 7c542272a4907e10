#!/bin/sh
# Every test: static checks, pytest (unit, kernel, faults, network, crashes, lab) and the molecule scenarios, several side by side,
# each with a lab of its own. Needs root, for labs and network namespaces. Ctrl-C stops it and removes what it started.
# usage: scripts/test.sh [lint|pytest|pytest-LAYER|molecule|molecule-SCENARIO ...]      default: all
set -eu
cd -- "$(dirname -- "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
    printf 'test: labs and network namespaces need root: run  sudo %s\n' "$0" >&2
    exit 2
fi

started=$(date +%s)
run=t$(od -An -N2 -tx2 /dev/urandom | tr -d ' \n') # the first letters of all labs of this run
logs=.sallyport/logs/$run
mkdir -p "$logs/taken"
# Held by every process of this run for as long as one lives: whoever can lock it may remove the labs that it left.
SALLYPORT_RUN=/run/lock/sallyport-run-$run
exec 8>"$SALLYPORT_RUN"
flock 8
export SALLYPORT_RUN
lanes=""
PATH=$PWD/.venv/bin:$PATH
NO_COLOR=1
export PATH NO_COLOR

wanted=" $* "
is_wanted() { [ "$wanted" = "  " ] || case $wanted in *" $1 "* | *" ${1%%-*} "*) true ;; *) false ;; esac; }

# A stage's processes make groups and sessions of their own (molecule and Ansible do), so they are found by parentage.
tree() {
    printf '%s ' "$1"
    for pid in $(pgrep -P "$1"); do tree "$pid"; done
}

# end_tree PID: ask all of it to stop; insist when it has not cleaned up after ten seconds.
end_tree() {
    pids=$(tree "$1")
    # shellcheck disable=SC2086 # a list of numbers
    kill -TERM $pids 2>/dev/null || true
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        left=""
        for pid in $pids; do ! kill -0 "$pid" 2>/dev/null || left="$left $pid"; done
        [ -n "$left" ] || return 0
        sleep 0.5
    done
    # shellcheck disable=SC2086
    kill -KILL $left 2>/dev/null || true
}

# stage NAME COMMAND...: run it with a log of its own, and remember its verdict.
stage() {
    name=$1
    shift
    is_wanted "$name" || return 0
    printf 'test: %s ...\n' "$name"
    begin=$(date +%s)
    trap 'end_tree "$!"; exit 130' TERM
    "$@" >"$logs/$name.log" 2>&1 </dev/null &
    if wait "$!"; then verdict=ok; else verdict=FAILED; fi
    trap - TERM
    printf '%s %s\n' "$name" "$verdict" >>"$logs/verdicts"
    printf 'test: %-24s %s (%s s)\n' "$name" "$verdict" "$(($(date +%s) - begin))"
    [ "$verdict" = ok ] || tail -n 60 "$logs/$name.log" | sed 's/^/    /'
}

# perform STAGE: with a lab of its own, whose name begins with the run's letters, by which `clean` finds it.
perform() {
    SALLYPORT_LAB=$run${1#*-}
    export SALLYPORT_LAB
    case $1 in
        lint) stage lint scripts/lint.sh ;;
        pytest-faults) stage "$1" python -m pytest --durations=15 tests/faults \
            --ignore tests/faults/test_crash_points.py --ignore tests/faults/test_mutations.py \
            --ignore tests/faults/test_network.py --ignore tests/faults/test_boot.py ;;
        pytest-network) stage "$1" python -m pytest --durations=15 \
            tests/faults/test_network.py tests/faults/test_boot.py ;;
        pytest-crashes) stage "$1" python -m pytest --durations=15 \
            tests/faults/test_crash_points.py tests/faults/test_mutations.py ;;
        pytest-*) stage "$1" python -m pytest --durations=15 "tests/${1#pytest-}" ;;
        molecule-*) stage "$1" molecule test --scenario-name "${1#molecule-}" ;;
    esac
}

# Each lane takes the next stage that nobody has taken. The long ones come first, so that no lane ends long before
# the others; four lanes for two cores, since a stage keeps a core busy for a third to two thirds of its time and
# waits for devices otherwise.
lane() {
    for next in lint pytest-unit pytest-lab pytest-faults molecule-tls molecule-updates pytest-kernel pytest-network \
        pytest-crashes molecule-firewall molecule-images molecule-access $(scenarios); do
        ! mkdir "$logs/taken/$next" 2>/dev/null || perform "$next"
    done
}
scenarios() { for file in molecule/*/molecule.yml; do basename -- "$(dirname -- "$file")" | sed 's/^/molecule-/'; done; }

clean() {
    for lane in $lanes; do kill -TERM "$lane" 2>/dev/null || true; done
    wait || true
    for prefix in $(lab/lab list 2>/dev/null); do
        case $prefix in "$run"*) lab/lab down --prefix "$prefix" ;; esac
    done
    rm -f "$SALLYPORT_RUN"
}
trap clean EXIT
trap 'printf "test: interrupted\n"; exit 130' INT TERM HUP

scripts/setup.sh --all-images # a stage's time is its own, not that of an image that it is the first to want
: >"$logs/verdicts"
for _ in 1 2 3 4; do
    lane &
    lanes="$lanes $!"
done
for each in $lanes; do wait "$each" || true; done
lanes=""

for log in "$logs"/pytest-*.log; do
    [ -f "$log" ] || continue
    printf '%s\n' "${log##*/}"
    sed -n '/short test summary info/,$p' "$log" | tail -n 30
    tail -n 1 "$log"
done
# What got in and what did not is a figure of its own: molecule prints it within a task, pytest at its end.
for log in "$logs"/*.log; do
    [ -f "$log" ] || continue
    name=${log##*/}
    sed -n "s/^.*\(logins tried: [^\"']*\).*/test: ${name%.log}: \1/p" "$log" | tail -n 1
done
failed=$(sed -n 's/ FAILED$//p' "$logs/verdicts" | tr '\n' ' ')
seconds=$(($(date +%s) - started))
if [ -n "$failed" ] || [ ! -s "$logs/verdicts" ]; then
    printf 'test: FAILED after %s s: %s(logs: %s)\n' "$seconds" "${failed:-nothing ran }" "$logs"
    exit 1
fi
printf 'test: PASSED in %s s: %s(logs: %s)\n' "$seconds" "$(sed 's/ ok$//' "$logs/verdicts" | tr '\n' ' ')" "$logs"
