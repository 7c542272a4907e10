#!/bin/sh
# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
#
# Loads Sallyport's firewall. Boot, activation and restoring all run this very program on the very files that
# lie in /etc/sallyport/firewall, so what was proven is what boots.
#
#   firewall-load load            make the files live; without files, remove what is ours
#   firewall-load adopt           the same, and let TCP flows go on that began before connection tracking did
#   firewall-load boot            load, and note whether a link had been up before, and what listened by then
#   firewall-load window          print that note, if it is of this boot
#   firewall-load check KIND FILE ...   would the kernel take these files? KIND is nft-lists, nft,
#                                 set-lists, sets, v4 or v6, in this order
#   firewall-load verify          is what the files say in force, in the kernel's own words?
#   firewall-load live            print the live state, without the content of large sets, bans and rate buckets
#   firewall-load remove          remove what is ours and nothing else
#   firewall-load bans            print the banned addresses, and when each ban ends
#   firewall-load ban ADDRESS [SECONDS], firewall-load lift ADDRESS
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C
LF='
'
DIR=${SALLYPORT_FIREWALL_DIR:-/etc/sallyport/firewall}

die() {
	echo "firewall-load: $*" >&2
	exit 1
}

# nftables: one transaction that keeps the sets of bans and rates, and so what they remember.

nft_table() {
	command -v nft >/dev/null 2>&1 || return 0
	# Not "list table": beside 100,000 elements that takes 0.7 s, and this 3 ms. Without its warnings on tables
	# that are not ours; and nft 0.9.8 crashes on some rules that iptables-nft made, then ours alone is listed.
	if ! nft_all=$(nft "$@" -t list ruleset 2>/dev/null); then
		if ! nft_all=$(nft list tables 2>&1); then
			# A tool that is there and does not work, beside rules that another tool holds.
			[ -e "$DIR/nft" ] || return 0
			die "nft list tables failed: $nft_all"
		fi
		case $LF$nft_all$LF in *"${LF}table inet sallyport$LF"*) ;; *) return 0 ;; esac
		nft_all=$(nft "$@" -t list table inet sallyport) || die 'nft list table inet sallyport failed'
	fi
	printf '%s\n' "$nft_all" | sed -n '/^table inet sallyport {$/,/^}$/p'
}

nft_program() { # FILE LISTS ADOPT
	nft_old=$(nft_table)
	[ -z "$nft_old" ] || echo 'flush table inet sallyport'
	# Maps are never ours. Their elements may lead to chains and other objects, which cannot go before them.
	printf '%s\n' "$nft_old" | sed -n 's/^	map \(.*\) {$/flush map inet sallyport \1\
delete map inet sallyport \1/p'
	printf '%s\n' "$nft_old" | while read -r kind name rest; do
		case $kind:$rest in
		ct:*' {') kind="ct $name" name=${rest% \{} rest='{' ;;
		esac
		[ "$rest" = '{' ] || continue
		case $kind:$name in
		chain:*)
			# A base chain that stays is only refilled: unhooking it would let packets by.
			grep -q "^	chain $name {\$" "$1" || echo "delete chain inet sallyport $name"
			;;
		set:bans* | set:rate*)
			grep -q "^add set inet sallyport $name {\$" "$1" || echo "delete set inet sallyport $name"
			;;
		set:* | counter:* | quota:* | limit:* | secmark:* | synproxy:* | flowtable:* | 'ct '*:*)
			echo "delete $kind inet sallyport $name"
			;;
		esac
	done
	[ ! -e "$2" ] || echo "include \"$2\""
	echo "include \"$1\""
	[ "$3" = no ] || echo 'add rule inet sallyport adopt_running accept comment "until the change is confirmed"'
}

nft_load() {
	program=$(nft_program "$DIR/nft" "$DIR/nft-lists" "$1")
	# As an argument: it is short, and not every device has a /dev/stdin.
	nft "$program"
}

# Chains and sets are listed in the order in which they came to be, which differs after a reboot: sort them.
nft_live() {
	block='' n=1000000
	nft_table -s | while IFS= read -r line; do
		case $line in
		'	set '* | '	chain '*) block=$line ;;
		'}') block='' ;;
		'') continue ;; # stands between blocks, so behind all but the last one
		esac
		n=$((n + 1))
		printf '%s %s %s\n' "$block" "$n" "$line"
	done | sort | sed -e 's/^.* { [0-9]* //' -e 's/^ 1[0-9]\{6\} //'
}

nft_remove() {
	[ -z "$(nft_table)" ] || nft delete table inet sallyport
}

# iptables and ip6tables: our chains of one table change in one commit; the jumps to them stand first.
xt_program() { # COMMAND FILE ADOPT: the restore program; without FILE it removes what is ours
	if ! saved=$("$1-save" 2>/dev/null); then
		[ -n "$2" ] || return 0
		die "$1-save failed"
	fi
	for table in filter security raw nat mangle; do
		old=$(printf '%s\n' "$saved" | sed -n "/^\*$table\$/,/^COMMIT\$/p")
		new=
		[ -z "$2" ] || new=$(sed -n "/^\*$table\$/,/^COMMIT\$/{/^[:-]/p;}" "$2")
		case $old$new in *SALLYPORT-*) ;; *) continue ;; esac
		echo "*$table"
		gone=
		for chain in $(printf '%s\n' "$old" | sed -n 's/^:\(SALLYPORT-[^ ]*\) .*/\1/p'); do
			case $LF$new in
			*"$LF:$chain "*) ;;
			*)
				echo ":$chain - [0:0]"
				gone="$gone $chain"
				;;
			esac
		done
		[ -z "$new" ] || printf '%s\n' "$new"
		[ "$3" = no ] || [ "$table" != mangle ] || echo '-I SALLYPORT-RUNNING 1 -j RETURN'
		# Whatever leads into our chains, under any condition and from anywhere: a chain that is led to cannot go.
		printf '%s\n' "$old" | sed -n -e '/^-A SALLYPORT-/d' -e 's/^-A \(.* -[gj] SALLYPORT-[^ ]*\)$/-D \1/p'
		for base in PREROUTING INPUT FORWARD OUTPUT POSTROUTING; do
			case $new in *":SALLYPORT-$base "*) echo "-I $base 1 -j SALLYPORT-$base" ;; esac
		done
		for chain in $gone; do echo "-X $chain"; done
		echo COMMIT
	done
}

xt_apply() { # COMMAND FILE ADOPT
	program=$(xt_program "$1" "$2" "$3")
	[ -n "$program" ] || return 0
	printf '%s\n' "$program" | "$1-restore" -w --noflush || die "$1-restore refused ${2:-the removal of our chains}"
}

xt_restore_sets() { # PROGRAM
	[ -z "$1" ] || printf '%s\n' "$1" | ipset restore || die 'ipset refused to swap sets'
}

xt_sets() { # FILE: load every set; one that exists is swapped, so that it holds what the file says
	have=$(ipset list -n) || die 'ipset list failed'
	xt_restore_sets "$(printf '%s\n' "$have" | sed -n 's/^sallyport-.*-n$/destroy &/p')"
	ipset -exist restore <"$1" || die "ipset refused $1"
	xt_restore_sets "$(sed -n 's/^create \(sallyport-.*\)-n .*/\1/p' "$1" | while read -r name; do
		case $LF$have$LF in
		*"$LF$name$LF"*) printf 'swap %s-n %s\ndestroy %s-n\n' "$name" "$name" "$name" ;;
		*) echo "rename $name-n $name" ;;
		esac
	done)"
}

xt_old_sets() { # FILE...: destroy our sets that no file names; no rule uses them any more
	command -v ipset >/dev/null 2>&1 || return 0
	named=$(for file; do
		[ ! -e "$file" ] || sed -n -e 's/^create \(sallyport-.*\)-n .*/\1/p' -e 's/^create \([^ ]*\) .*/\1/p' "$file"
	done)
	# The nft variant of iptables lets go of a set a moment after its rules are gone. What stays goes at the next load.
	for try in 1 2 3; do
		[ "$try" = 1 ] || sleep 1
		old=$(ipset list -n 2>/dev/null | sed -n '/^sallyport-/p' | while read -r name; do
			case $LF$named$LF in *"$LF$name$LF"*) ;; *) echo "destroy $name" ;; esac
		done)
		[ -n "$old" ] || return 0
		! printf '%s\n' "$old" | ipset restore 2>/dev/null || return 0
	done
}

xt_load() {
	for file in "$DIR/set-lists" "$DIR/sets"; do
		[ ! -e "$file" ] || xt_sets "$file"
	done
	xt_apply ip6tables "$DIR/v6" "$1"
	xt_apply iptables "$DIR/v4" "$1"
	xt_old_sets "$DIR/set-lists" "$DIR/sets"
}

xt_remove() {
	for command in iptables ip6tables; do
		! command -v "$command-save" >/dev/null 2>&1 || xt_apply "$command" '' no
	done
	xt_old_sets
}

# Chains in any order, the rules of a chain in theirs; a rule of others ahead of our jump shows too.
xt_live() {
	for command in iptables ip6tables; do
		command -v "$command-save" >/dev/null 2>&1 || continue
		if ! saved=$("$command-save" 2>/dev/null); then
			[ -e "$DIR/v4" ] || continue
			die "$command-save failed"
		fi
		n=1000000 table='' last='' at=0
		printf '%s\n' "$saved" | while IFS= read -r line; do
			n=$((n + 1))
			case $line in
			'*'*) table=${line#?} ;;
			:SALLYPORT-*) echo "$command $table ${line%% *}" ;;
			'-A SALLYPORT-'*)
				rule=${line#-A }
				echo "$command $table ${rule%% *} $n $line"
				;;
			-A*)
				rule=${line#-A }
				[ "${rule%% *}" = "$last" ] || at=0
				last=${rule%% *} at=$((at + 1))
				case $line in *'-j SALLYPORT-'* | *'-g SALLYPORT-'*) echo "$command $table $last rule $at: $line" ;; esac
				;;
			esac
		done | sort | sed 's/ 1[0-9]\{6\} / /'
	done
	command -v ipset >/dev/null 2>&1 || return 0
	ipset list -t 2>/dev/null | while IFS= read -r line; do
		case $line in
		'Name: '*) name=${line#Name: } ;;
		'Number of entries: '*) case $name in sallyport-[46]-*) echo "$name $line" ;; esac ;;
		esac
	done | sort
}

check() {
	lists=
	while [ $# -gt 1 ]; do
		case $1 in
		nft-lists) lists=$2 ;;
		nft)
			program=$(nft_program "$2" "$lists" no)
			nft -c "$program" || die "nft refused $2"
			;;
		set-lists | sets) xt_sets "$2" ;;
		v4 | v6)
			command=iptables
			[ "$1" = v4 ] || command=ip6tables
			recent_holds "$2"
			program=$(xt_program "$command" "$2" no)
			printf '%s\n' "$program" | "$command-restore" -w --noflush --test || die "$command-restore refused $2"
			;;
		*) die "expected nft-lists, nft, set-lists, sets, v4 or v6, got '$1'" ;;
		esac
		shift 2
	done
}

# Rules that say "cut" end their flows when they go. What is in force now is remembered until the next boot, which
# ends all flows anyway.
cut_flows() {
	before=$DIR/cuts.in-force
	[ ! -w /run ] || before=/run/sallyport-firewall-cuts
	now=
	[ ! -e "$DIR/cuts" ] || now=$(cat "$DIR/cuts")
	if [ -e "$before" ]; then
		while IFS= read -r line; do
			case $LF$now$LF in
			*"$LF$line$LF"*) ;;
			*)
				# Words made by Sallyport, one option each; no flow of that kind is no error.
				# shellcheck disable=SC2086
				conntrack -D $line >/dev/null 2>&1 || :
				;;
			esac
		done <"$before"
	fi
	if [ -n "$now" ]; then
		(umask 077 && printf '%s\n' "$now" >"$before.new")
		mv -f "$before.new" "$before"
	else
		rm -f "$before"
	fi
}

load() { # What another tool held is removed only after the new rules stand.
	if [ -e "$DIR/nft" ]; then
		nft_load "$1"
		xt_remove
	elif [ -e "$DIR/v4" ]; then
		xt_load "$1"
		nft_remove
	else
		remove
	fi
	cut_flows
}

verify() { # Every chain of the files is there and holds rules, and the hooks lead to them.
	if [ -e "$DIR/nft" ]; then
		have=$(nft_table)
		for file in "$DIR/nft-lists" "$DIR/nft"; do
			[ ! -e "$file" ] || sed -n -e 's/^	chain \(.*\) {$/chain \1/p' -e 's/^add set inet sallyport \(.*\) {$/set \1/p' "$file"
		done | while read -r kind name; do
			case $have in
			*"	$kind $name {"*) ;;
			*) die "the kernel has no $kind $name" ;;
			esac
		done
		filled=$(printf '%s\n' "$have" | nft_filled)
		nft_filled <"$DIR/nft" | while read -r name; do
			case $LF$filled$LF in
			*"$LF$name$LF"*) ;;
			*) die "the kernel has no rules in chain $name" ;;
			esac
		done
		return 0
	fi
	for pair in v4:iptables v6:ip6tables; do
		recent_holds "$DIR/${pair%:*}"
		have=$("${pair#*:}-save") || die "${pair#*:}-save failed"
		sed -n -e '/^\*/p' -e '/^:SALLYPORT-/p' "$DIR/${pair%:*}" | while read -r chain rest; do
			case $chain in
			'*'*)
				table=${chain#?}
				part=$(printf '%s\n' "$have" | sed -n "/^\*$table\$/,/^COMMIT\$/p")
				continue
				;;
			esac
			chain=${chain#:}
			case $part in *":$chain "*) ;; *) die "${pair#*:} has no chain $chain in $table" ;; esac
			if sed -n "/^\*$table\$/,/^COMMIT\$/p" "$DIR/${pair%:*}" | grep -q "^-A $chain "; then
				case $part in *"-A $chain "*) ;; *) die "${pair#*:} has no rules in chain $chain of $table" ;; esac
			fi
			base=${chain#SALLYPORT-}
			case $base in
			PREROUTING | INPUT | FORWARD | OUTPUT | POSTROUTING)
				case $part$LF in
				*"-A $base -j $chain$LF"*) ;;
				*) die "nothing leads from $base to $chain in $table" ;;
				esac
				;;
			esac
		done
	done
}

nft_filled() { # the names of chains that hold rules, from a listing
	sed -n -e '/^	[a-z]/{s/^	chain \(.*\) {$/\1/;h;}' -e '/^		type .* hook /d' -e '/^		/{g;/^[^	]/p;}' | sort -u
}

# Bans by hand. They end by themselves, and outlive a new generation, not a reboot.

ban_set() { # FAMILY: the name of the set that bans of this family lie in, in the file that is loaded
	if [ -e "$DIR/nft" ]; then
		sed -n "s/^add set inet sallyport \(bans${1}_[0-9]*\) {\$/\1/p" "$DIR/nft"
	elif [ -e "$DIR/sets" ]; then
		sed -n "s/^create \(sallyport-bans$1-[0-9]*\) .*/\1/p" "$DIR/sets"
	else
		echo "/proc/net/xt_recent/SALLYPORT$1"
	fi
}

ban_subject() ( # ADDRESS: the one that the rules look up, an IPv4 address or the first one of an IPv6 /64
	said=$1
	no() { die "expected an address, got '$said'"; }
	set -f
	case $1 in
	'' | *[!0-9a-fA-F.:]* | *:*.* | *.*:* | *:::* | *::*::* | *[!:]: | :[!:]*) no ;;
	*:*)
		IFS=:
		left=${1%%::*} right=''
		case $1 in *::*) right=${1#*::} ;; esac
		# shellcheck disable=SC2086  # words are wanted
		set -- $left
		words=$#
		# shellcheck disable=SC2086
		set -- $left $right
		case $said in
		*::*) [ $# -le 7 ] || no ;;
		*) [ $# = 8 ] || no ;;
		esac
		for word; do
			case $word in ?????*) no ;; esac
		done
		zeros=$((8 - $#)) out='' n=0
		# shellcheck disable=SC2086
		set -- $left
		while [ "$n" -lt 4 ]; do
			n=$((n + 1))
			if [ "$n" -gt "$words" ] && [ "$n" -le $((words + zeros)) ]; then
				word=0
			else
				# shellcheck disable=SC2086
				if [ $# = 0 ]; then set -- $right; fi
				word=$1
				shift
			fi
			while :; do
				case $word in 0?*) word=${word#0} ;; *) break ;; esac
			done
			out=$out$word:
		done
		while :; do
			case :$out in *:0:) out=${out%0:} ;; *) break ;; esac
		done
		printf '%s\n' "${out:-:}:"
		;;
	*)
		IFS=.
		# shellcheck disable=SC2086
		set -- $1
		[ $# = 4 ] || no
		for word; do
			case $word in '' | ????* | 0?*) no ;; esac
			[ "$word" -le 255 ] || no
		done
		printf '%s\n' "$said"
		;;
	esac
)

ban() { # add|delete ADDRESS SECONDS
	ban_whom=$(ban_subject "$2") || exit 1
	case $ban_whom in
	*:*) set -- "$1" "$ban_whom" "$3" "$(ban_set 6)" ;;
	*) set -- "$1" "$ban_whom" "$3" "$(ban_set 4)" ;;
	esac
	case $3 in *[!0-9]*) die "expected seconds, got '$3'" ;; esac
	case $1:$4 in
	add:bans*) nft "$(nft_taking "$4" "$2 timeout ${3:-3600}s")" ;;
	delete:bans*) nft_lift "$4" "$2" ;;
	add:sallyport-*) ipset -exist add "$4" "$2" timeout "${3:-3600}" ;;
	delete:sallyport-*) ipset del "$4" "$2" ;;
	add:/proc/*)
		hand_bans "$4" "$2"
		[ "$count" -lt 36 ] || die "36 bans by hand are in force, the most without ipset or nft: lift one first"
		echo "+$2" >"$4"
		printf '%s\n' "$others$2 $now ${4##*/}" >"$hand"
		;;
	delete:/proc/*)
		echo "-$2" >"$4"
		hand_bans "$4" "$2"
		printf '%s' "$others" >"$hand"
		;;
	*) die 'no firewall is loaded' ;;
	esac
}

# xt_recent forgets its oldest entry when it is full, a ban in force or not. So both who ban keep a count: the rules theirs,
# and this the bans by hand, which it remembers until they end.
hand_bans() { # LIST ADDRESS: $others is what is remembered but ADDRESS, $count how many bans of LIST that is
	hand=$(hand_file)
	lasts=$(sed -n "/ --name ${1##*/} --rcheck /{s/.* --seconds \([0-9]*\) .*/\1/p;q;}" "$DIR/v${1##*T}")
	read -r now _ </proc/uptime
	now=${now%%.*} others='' count=0
	[ -e "$hand" ] || return 0
	while read -r address since list; do
		age=$((now - since)) # below 0: of an earlier boot
		if [ "$age" -lt 0 ] || [ "$age" -ge "${lasts:-3600}" ] || [ "$address" = "$2" ]; then continue; fi
		others="$others$address $since $list$LF"
		[ "$list" != "${1##*/}" ] || count=$((count + 1))
	done <"$hand"
}

hand_file() {
	if [ -w /run ]; then echo /run/sallyport-firewall-bans; else echo "$DIR/bans.by-hand"; fi
}

recent_holds() { # FILE: is there room for as many bans as its rules and hands may make?
	[ -d /sys/module/xt_recent ] || return 0 # not loaded yet: verify asks again
	for parameter in ip_list_tot:100 ip_pkt_list_tot:60; do
		name=${parameter%:*} least=${parameter#*:} has=
		{ read -r has </sys/module/xt_recent/parameters/"$name"; } 2>/dev/null || :
		case $name:$has in
		ip_pkt_list_tot:0) continue ;; # as many as a rule asks for
		*:) grep -q -e '--hitcount' "$1" || continue ;;
		esac
		[ "${has:-0}" -ge "$least" ] ||
			die "xt_recent holds too little: $name is ${has:-not to be read}, and bans need $least. Load it with more (/etc/modprobe.d), or take ipset or nft"
	done
}

# Neither "add element" nor "delete element": before those, nft reads every interval set of the device, which takes half
# a minute beside 500,000 prefixes. A set that is declared once more, with elements, only takes them in: 3 ms.
nft_taking() { # SET ELEMENTS: the declaration that SET was made by, and these elements
	sed -n "/^add set inet sallyport $1 {\$/,/^}\$/{/^}\$/!p;}" "$DIR/nft"
	printf 'elements = { %s }\n}\n' "$2"
}

# The set is emptied and takes the others again, in one transaction: nobody else's ban is off for an instant.
nft_lift() { # SET ADDRESS
	found=$(nft_banned "$1") || die "nft list set $1 failed"
	case $LF$found in
	*"$LF$2 "*) ;;
	*) # Not there, or another way to write it: nft can tell, slowly.
		nft delete element inet sallyport "$1" "{ $2 }"
		return 0
		;;
	esac
	# Without what ends within this millisecond: a time-out of 0 would never end.
	others=$(printf '%s\n' "$found" | sed -n -e "/^$(printf '%s' "$2" | sed 's/\./\\./g') /d" \
		-e 's/ \([1-9]\)/ timeout \1/p' | sed '$!s/$/,/')
	# In a file, because thousands of bans are too long for an argument.
	program=$DIR/lift.nft
	[ ! -w /run ] || program=/run/sallyport-firewall-lift
	(
		umask 077
		echo "flush set inet sallyport $1"
		[ -z "$others" ] || nft_taking "$1" "$others"
	) >"$program"
	nft -f "$program" || die "nft refused to lift the ban of $2"
	rm -f "$program"
}

nft_banned() { # SET: a line for each ban of it, the address and when it ends
	nft_set=$(nft list set inet sallyport "$1") || return 1
	printf '%s\n' "$nft_set" | sed 's/[{,}]/\
/g' | sed -n 's/^[[:space:]]*\([0-9a-f.:]*\) .*expires \([^ ]*\).*/\1 \2/p'
}

bans() {
	for family in 4 6; do
		name=$(ban_set "$family")
		case $name in
		bans*) nft_banned "$name" || die "nft list set $name failed" ;;
		sallyport-*) ipset list "$name" | sed -n 's/^\([0-9a-f.:]*\) timeout \([0-9]*\).*/\1 \2s/p' ;;
		*) [ ! -e "$name" ] || sed -n 's/^src=\([^ ]*\) .*/\1/p' "$name" ;;
		esac
	done
}

remove() {
	nft_remove
	xt_remove
	rm -f "$(note_file)" "$(hand_file)"
}

# The window at boot: what the first load of this boot found. A link that was up by then, or has carried packets, was
# up before the rules were; boot_window.py says what that means. Nothing in here may stand in the way of a load.

note_file() { # where nothing outlives a boot: /run, else /dev, which the kernel fills before init begins
	for folder in /run /dev "$DIR"; do
		! grep -q " $folder " /proc/mounts 2>/dev/null || break
	done
	echo "$folder/.sallyport-firewall-boot"
}

this_boot() { # a container has the boot_id of its machine: when init began tells its boots apart
	read -r boot_id </proc/sys/kernel/random/boot_id
	began=$(began /proc/1/stat)
	echo "$boot_id $began"
}

began() { # FILE: field 22 of a process's stat; its name may hold blanks and brackets
	read -r stat <"$1"
	# shellcheck disable=SC2086
	set -- ${stat##*) }
	shift 19
	echo "$1"
}

note() { # boot|run: once in a boot
	# BusyBox init runs the boot hook before anybody has mounted these.
	mounted=
	[ -r /proc/mounts ] || ! mount -t proc proc /proc || mounted=/proc
	[ -d /sys/class/net ] || ! mount -t sysfs sysfs /sys || mounted="$mounted /sys"
	(umask 077 && note_of "$1" "$(note_file)")
	for folder in $mounted; do umount "$folder"; done
}

note_of() { # boot|run FILE
	boot=$(this_boot)
	noted=
	[ ! -e "$2" ] || read -r noted <"$2"
	[ "$noted" != "of $boot" ] || return 0
	{
		echo "of $boot"
		[ "$1" = run ] || found
	} >"$2.new"
	mv -f "$2.new" "$2"
}

found() {
	read -r up _ </proc/uptime
	echo "loaded $up"
	links=
	for folder in /sys/class/net/*; do
		type='' flags='' received='' sent=''
		read -r type <"$folder/type"
		read -r flags <"$folder/flags"
		read -r received <"$folder/statistics/rx_packets"
		read -r sent <"$folder/statistics/tx_packets"
		state=never
		[ "$received$sent" = 00 ] || state=earlier
		[ $((${flags:-1} & 1)) = 0 ] || state=up
		[ "$type" != 772 ] || state=loopback
		echo "link $state ${folder##*/}"
		case $state in up | earlier) links=some ;; esac
	done
	[ -n "$links" ] || return 0
	read -r asked </proc/cmdline
	set -f
	for word in $asked; do
		case $word in ip=* | rd.neednet=* | root=/dev/nfs | netroot=*) echo "asked $word" ;; esac
	done
	set +f
	# The kernel's socket tables are in the machine's own byte order; the sixth byte of any program tells which.
	IFS= read -r stat <"/proc/$$/exe" || :
	case $stat in ?ELF?"$(printf '\002')"*) echo big_endian ;; esac
	inodes=$(for table in tcp tcp6 udp udp6; do
		sed -n "s/^ *[0-9]*: \([0-9A-F:]*\) [0-9A-F]*:0000 0[7A] [^ ]* [^ ]* [^ ]* *[0-9]* *[0-9]* \([0-9]*\) .*/$table \1 \2/p" \
			"/proc/net/$table" || :
	done)
	printf '%s\n' "$inodes" | sed -n 's/^./socket &/p'
	# shellcheck disable=SC2012
	ls -ln /proc/[0-9]*/fd/ | sed -n -e 's,^/proc/\([0-9]*\)/fd/:$,process \1,p' \
		-e 's/.* -> socket:\[\([0-9]*\)\]$/socket \1/p' | while read -r what number; do
		case $what in
		process) pid=$number ;;
		*)
			case "$inodes$LF" in *" $number$LF"*) ;; *) continue ;; esac
			since=$(began "/proc/$pid/stat") && read -r name <"/proc/$pid/comm" && echo "held $number $since $name"
			;;
		esac
	done
}

window() {
	file=$(note_file)
	[ -e "$file" ] || return 0
	read -r noted <"$file"
	[ "$noted" != "of $(this_boot)" ] || cat "$file"
}

case ${1-} in
load | adopt | boot)
	how=run adopts=no
	[ "$1" != adopt ] || adopts=yes
	[ "$1" != boot ] || how=boot
	load "$adopts"
	[ ! -e "$DIR/nft" ] && [ ! -e "$DIR/v4" ] || (note "$how") 2>/dev/null || :
	;;
window) window ;;
live)
	nft_live
	xt_live
	;;
verify) verify ;;
remove) remove ;;
bans) bans ;;
ban) ban add "${2-}" "${3-}" ;;
lift) ban delete "${2-}" '' ;;
check)
	shift
	check "$@"
	;;
*) die "expected load, adopt, boot, window, check, verify, live, remove, bans, ban or lift, got '${1-}'" ;;
esac
