#!/bin/sh
# Loads Sallyport's firewall. Boot, activation and restoring all run this very program on the very files that
# lie in /etc/sallyport/firewall, so what was proven is what boots.
#
#   firewall-load load            make the files live; without files, remove what is ours
#   firewall-load adopt           the same, and let TCP flows go on that began before connection tracking did
#   firewall-load check FILE...   would the kernel take these files? (named as they are installed: nft, v4, v6, sets)
#   firewall-load live            print the live state, without the content of large sets, bans and rate buckets
#   firewall-load remove          remove what is ours and nothing else
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C
DIR=${SALLYPORT_FIREWALL_DIR:-/etc/sallyport/firewall}

die() {
	echo "firewall-load: $*" >&2
	exit 1
}

# nftables: one transaction that keeps the sets of bans and rates, and so what they remember.

nft_table() {
	command -v nft >/dev/null 2>&1 || return 0
	# Not "list table": beside 100,000 elements that takes 0.7 s, and this 3 ms.
	nft_all=$(nft "$@" -t list ruleset) || die "nft list ruleset failed"
	printf '%s\n' "$nft_all" | sed -n '/^table inet sallyport {$/,/^}$/p'
}

nft_program() {
	nft_old=$(nft_table)
	# Not "add table" before the file's own table block: nft 0.9.8 crashes on that.
	[ -z "$nft_old" ] || echo 'flush table inet sallyport'
	printf '%s\n' "$nft_old" | while read -r kind name rest; do
		[ "$rest" = '{' ] || continue
		case $kind:$name in
		chain:*)
			# A base chain that stays is only refilled: unhooking it would let packets by.
			grep -q "^	chain $name {\$" "$1" || echo "delete chain inet sallyport $name"
			;;
		set:bans* | set:rate*)
			grep -q "^	set $name {\$" "$1" || echo "delete set inet sallyport $name"
			;;
		set:*) echo "delete set inet sallyport $name" ;;
		esac
	done
	echo "include \"$1\""
	[ "$2" = no ] || echo 'add rule inet sallyport adopt_running accept comment "until the change is confirmed"'
}

nft_load() {
	program=$(nft_program "$DIR/nft" "$1")
	# As an argument: it is short, and not every device has a /dev/stdin.
	nft "$program"
}

# Chains and sets are listed in the order in which they came to be, which differs after a reboot: sort them.
nft_live() {
	block='' n=1000000
	nft_table -s | while IFS= read -r line; do
		case $line in '	set '* | '	chain '*) block=$line ;; esac
		n=$((n + 1))
		printf '%s %s %s\n' "$block" "$n" "$line"
	done | sort | sed 's/^.* { [0-9]* //'
}

nft_remove() {
	[ -z "$(nft_table)" ] || nft delete table inet sallyport
}

check() {
	for file; do
		case ${file##*/} in
		*)
			program=$(nft_program "$file" no)
			nft -c "$program" || die "nft refused $file"
			;;
		esac
	done
}

load() {
	if [ -e "$DIR/nft" ]; then
		nft_load "$1"
	else
		nft_remove
	fi
}

case ${1-} in
load) load no ;;
adopt) load yes ;;
live) nft_live ;;
remove) nft_remove ;;
check)
	shift
	check "$@"
	;;
*) die "expected load, adopt, check, live or remove, got '${1-}'" ;;
esac
