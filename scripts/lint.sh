#!/bin/sh
# Every static check, all of them even when one fails. Exit status 1 when any did.
set -eu
cd -- "$(dirname -- "$0")/.."
PATH=$PWD/.venv/bin:$PATH
export PATH
failed=""

check() {
    title=$1
    shift
    if output=$("$@" 2>&1); then
        printf 'lint: %-28s ok\n' "$title"
    else
        printf 'lint: %-28s FAILED\n%s\n' "$title" "$output"
        failed="$failed $title,"
    fi
}

# Files that git knows or would know: neither caches nor other people's environments.
files() { git ls-files --cached --others --exclude-standard -- "$@"; }
shells() {
    files '*.sh'
    files lab inventories playbooks scripts .ci | while read -r file; do
        case $file in *.sh) continue ;; esac
        if head -n 1 -- "$file" | grep -q '^#!/bin/sh'; then printf '%s\n' "$file"; fi
    done
}
each_shell() { shells | while read -r file; do "$@" "$file" || exit 1; done; }

check yamllint yamllint --strict .
check ansible-lint ansible-lint --nocolor -q
check "ruff check" ruff check --quiet --output-format=concise . lab/lab
check "ruff format" ruff format --check --quiet --output-format=concise . lab/lab
check "mypy plugins" mypy plugins filter_plugins
check "mypy lab" mypy --python-version 3.11 lab
check shellcheck each_shell shellcheck --shell=sh
check "busybox sh -n" each_shell busybox sh -n

if [ -n "$failed" ]; then
    printf 'lint: FAILED:%s\n' "${failed%,}"
    exit 1
fi
printf 'lint: all passed\n'
