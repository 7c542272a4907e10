# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
#
# What is this device? Reads, never writes. The controller does the parsing: this program sends raw lines.
#
# It must run on dash and on BusyBox ash with few applets: builtins and /proc first, richer tools where they are.
# Nothing it reads is ever expanded as code, and no password hash or private key goes further than a shell variable.
# Comment lines and indents are cut before sending, so no text of several lines may depend on either.

has() { command -v "$1" >/dev/null 2>&1; }

# $found: the file on PATH that is called $1, or nothing. Not `command -v`, which in BusyBox ash also answers for
# built-in applets such as dpkg that the device does not really have.
find_tool() {
  found=
  _ifs=$IFS
  IFS=:
  for _dir in $PATH; do
    if [ -f "$_dir/$1" ] && [ -x "$_dir/$1" ]; then
      found=$_dir/$1
      break
    fi
  done
  IFS=$_ifs
}

# $line: the first line of file $1, or nothing.
first_line() {
  line=
  if [ -r "$1" ]; then IFS= read -r line 2>/dev/null <"$1" || :; fi
}

# Sends standard input as a blob called $1, for text whose last line is known to end. One sed is far cheaper than a
# read for each byte; the empty record behind it stands in for a final newline that was missing after all.
raw() {
  if has sed; then
    printf 'blob %s\n' "$1" >&3
    sed -e 's/^/|/' >&3
    printf '\n' >&3
  else
    blob "$1"
  fi
}

# Sends the lines of the readable files $3... that match the case-less words of pattern $2, as records called $1.
matching() {
  _key=$1 _words=$2
  shift 2
  for _file in "$@"; do
    if [ ! -f "$_file" ] || [ ! -r "$_file" ]; then continue; fi
    if has grep; then
      grep -i -E -e "$_words" "$_file" 2>/dev/null || :
    else
      cat "$_file"
    fi
  done | {
    _count=0
    while IFS= read -r _line && [ "$_count" -lt 500 ]; do
      say "$_key $_line"
      _count=$((_count + 1))
    done
  }
}

# Sends file $1 whole, by name. Longer than 64 kB, the controller gets the name and leaves the text out.
send_file() {
  if [ ! -f "$1" ] || [ ! -r "$1" ]; then return 0; fi
  case $1 in *"
"*) return 0 ;; esac
  if has head; then
    head -c 65537 "$1" 2>/dev/null | blob "file $1"
  else
    blob "file $1" <"$1"
  fi
}

system() {
  say protocol 1
  first_line /proc/sys/kernel/hostname
  say "hostname $line"
  first_line /proc/sys/kernel/osrelease
  say "kernel $line"
  if has uname; then
    say "machine $(uname -m 2>/dev/null)"
  else
    first_line /proc/sys/kernel/arch
    say "machine $line"
  fi
  uid=
  while read -r _key _real _effective _rest; do
    if [ "$_key" = Uid: ]; then uid=$_effective; fi
  done </proc/self/status
  say "uid $uid"
  # The kernel's socket tables are in the machine's own byte order; the sixth byte of any program tells which.
  _line=
  IFS= read -r _line 2>/dev/null <"/proc/$$/exe" || :
  case $_line in ?ELF?"$(printf '\002')"*) say big_endian ;; esac
  for _file in /etc/os-release /usr/lib/os-release; do
    if [ -r "$_file" ]; then
      blob os_release <"$_file"
      break
    fi
  done

  first_line /proc/1/comm
  say "init_comm $line"
  if has readlink; then say "init_exe $(readlink /proc/1/exe 2>/dev/null)"; fi
  if [ -d /run/systemd/system ]; then say init_has systemd; fi
  if [ -e /run/openrc/softlevel ] || [ -x /sbin/openrc-run ]; then say init_has openrc; fi
  if [ -e /etc/inittab ]; then say init_has inittab; fi

  if [ -e /run/.containerenv ]; then say container podman; fi
  if [ -e /.dockerenv ]; then say container docker; fi
  first_line /run/systemd/container
  say "container $line"
  if [ -r /proc/1/environ ] && has tr; then
    tr '\0' '\n' </proc/1/environ 2>/dev/null | while IFS= read -r _line; do
      case $_line in container=*) say "container ${_line#container=}" ;; esac
    done
  fi

  for _name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 platform-python; do
    find_tool "$_name"
    if [ -n "$found" ]; then
      say "python $found"
      break
    fi
  done
  if [ -x /usr/libexec/platform-python ]; then say "python_system /usr/libexec/platform-python"; fi

  for _name in \
    apk apt-get awk base64 busybox cat certbot chage chattr chgrp chmod chown chpasswd chronyc chronyd cksum conntrack cp \
    crond crontab curl cut date dd dpkg dropbear dropbearconvert dropbearkey env find flock getent grep head hwclock id \
    in.telnetd inetd ip ip6tables ip6tables-restore ip6tables-save ipset iptables iptables-restore iptables-save \
    journalctl kill ln logger ls md5sum mender mender-update mkdir mktemp mv nc nft ntpd od openssl opkg passwd pidof ps \
    rauc rc-service rc-update readlink rm sed setsid sha256sum sha512sum sh sleep sort ss ssh ssh-keygen sshd stat \
    su sudo doas swupdate sync sysctl systemctl systemd-run tail tar telnetd timedatectl timeout touch tr udhcpc \
    unattended-upgrade unshare update-rc.d useradd userdel usermod wget xargs xinetd; do
    find_tool "$_name"
    if [ -n "$found" ]; then say "tool $_name $found"; fi
  done
  if [ -e /var/lib/dpkg/status ]; then say package_db apt; fi
  if [ -d /lib/apk/db ] || [ -d /usr/lib/apk/db ]; then say package_db apk; fi
  if [ -d /usr/lib/opkg ] || [ -d /var/lib/opkg ] || [ -d /etc/opkg ]; then say package_db opkg; fi

  if has date; then
    say "epoch $(date -u +%s 2>/dev/null)"
  else
    # The kernel knows when it started and for how long it has run.
    first_line /proc/uptime
    _uptime=${line%%.*}
    while read -r _key _value _rest; do
      if [ "$_key" = btime ]; then say "epoch $((_value + ${_uptime:-0}))"; fi
    done </proc/stat
  fi
}

# Where this controller comes from. sudo and doas strip SSH_CONNECTION, so it is read from the environment of the
# nearest ancestor that has it. Only that one word of the environment, and the name of its user, leave the device.
# `read` drops the NUL bytes between the variables: the port is followed by a letter, never by another digit.
connection() {
  if [ -n "${SSH_CONNECTION:-}" ]; then
    say "connection $SSH_CONNECTION"
    say "login_user ${USER:-${LOGNAME:-}}"
  fi
  _pid=$$ _depth=0
  while [ -n "$_pid" ] && [ "$_pid" -gt 1 ] && [ "$_depth" -lt 40 ]; do
    say "ancestor $_pid"
    _depth=$((_depth + 1))
    if [ -r "/proc/$_pid/environ" ]; then
      _words=
      while IFS= read -r _line || [ -n "$_line" ]; do _words="$_words$_line "; done 2>/dev/null <"/proc/$_pid/environ" || :
      case $_words in
        *SSH_CONNECTION=*)
          _words=${_words#*SSH_CONNECTION=}
          set -f
          # shellcheck disable=SC2086  # four words are wanted
          set -- $_words
          set +f
          if [ "$#" -ge 4 ]; then say "connection $1 $2 $3 ${4%%[!0-9]*}"; fi
          ;;
      esac
    fi
    _parent=
    while read -r _key _value _rest; do
      case $_key in
        PPid:) _parent=$_value ;;
        Uid:) say "ancestor_uid $_pid $_value" ;;
      esac
    done 2>/dev/null <"/proc/$_pid/status" || :
    _pid=$_parent
  done
}

# One `cat` for all: a process for each would cost more than everything else here. A stat line stands before the
# arguments of its process; arguments need not end in a newline, so a file that does (it says "Linux") follows them.
processes() {
  _files=
  for _dir in /proc/[0-9]*; do _files="$_files $_dir/stat $_dir/cmdline /proc/sys/kernel/ostype"; done
  # shellcheck disable=SC2086  # the names are /proc/NUMBER/..., and there are many
  if has tr; then
    { cat $_files 2>/dev/null || :; } | tr '\0' '\037' | raw processes
  else
    { cat $_files 2>/dev/null || :; } | raw processes
  fi
  if has ls; then
    if has grep; then
      { ls -ln /proc/[0-9]*/exe /proc/[0-9]*/fd/ 2>/dev/null || :; } | grep -e '^/proc/' -e '/exe -> ' -e 'socket:' | raw descriptors
    else
      { ls -ln /proc/[0-9]*/exe /proc/[0-9]*/fd/ 2>/dev/null || :; } | raw descriptors
    fi
  elif has readlink; then
    for _file in /proc/[0-9]*/exe /proc/[0-9]*/fd/*; do
      _target=$(readlink "$_file" 2>/dev/null) || continue
      case $_file$_target in
        */exe* | *socket:*) say "descriptor $_file -> $_target" ;;
      esac
    done
  fi
  for _name in tcp tcp6 udp udp6; do
    if [ ! -r "/proc/net/$_name" ]; then continue; fi
    if has grep; then
      { grep -e ':0000 0[7A] ' "/proc/net/$_name" || :; } | raw "$_name"
    else
      raw "$_name" <"/proc/net/$_name"
    fi
  done
  if [ -d /run/systemd/system ] && has grep; then
    { grep -H -e '^0::' -e ':name=systemd:' /proc/[0-9]*/cgroup 2>/dev/null || :; } | raw cgroups
  fi
}

network() {
  for _dir in /sys/class/net/*; do
    if [ ! -d "$_dir" ]; then continue; fi
    _name=${_dir##*/}
    first_line "$_dir/type"
    _type=$line
    first_line "$_dir/ifindex"
    _index=$line
    first_line "$_dir/iflink"
    _link=$line
    _traits=
    if [ -d "$_dir/bridge" ]; then _traits="$_traits bridge"; fi
    if [ -e "$_dir/device" ]; then _traits="$_traits device"; fi
    for _port in "$_dir"/brif/*; do
      if [ -e "$_port" ]; then _traits="$_traits port=${_port##*/}"; fi
    done
    say "interface $_name $_type $_index $_link$_traits"
  done
  if [ -r /proc/net/dev ]; then blob net_dev </proc/net/dev; fi
  if has ip && _text=$(ip -o addr show 2>/dev/null) && [ -n "$_text" ]; then
    printf '%s\n' "$_text" | raw ip_addr
  else
    if [ -r /proc/net/fib_trie ]; then raw fib_trie </proc/net/fib_trie; fi
    if [ -r /proc/net/if_inet6 ]; then raw if_inet6 </proc/net/if_inet6; fi
  fi
  if [ -r /proc/net/route ]; then raw route </proc/net/route; fi
  if [ -r /proc/net/ipv6_route ]; then raw ipv6_route </proc/net/ipv6_route; fi
  matching resolver '^[[:space:]]*nameserver' /etc/resolv.conf /run/systemd/resolve/resolv.conf \
    /run/NetworkManager/resolv.conf /tmp/resolv.conf.auto /tmp/resolv.conf.d/resolv.conf.auto /etc/resolv.dnsmasq
  matching dhcp 'dhcp-server-identifier|server_address=|serverid|dhcp_server' /var/lib/dhcp/*lease* /var/lib/dhclient/*lease* \
    /var/lib/NetworkManager/*lease* /run/NetworkManager/devices/* /run/systemd/netif/leases/* \
    /var/run/udhcpc* /tmp/udhcpc* /var/lib/udhcpc/*
  matching ntp '^[[:space:]]*(server|pool|peer|ntp=|fallbackntp=|list[[:space:]]+server)' /etc/chrony/chrony.conf /etc/chrony.conf \
    /etc/chrony/conf.d/*.conf /etc/chrony/sources.d/*.sources /run/chrony-dhcp/*.sources /etc/ntp.conf \
    /etc/ntpsec/ntp.conf /etc/ntpsec/ntp.d/*.conf /etc/openntpd/ntpd.conf /etc/systemd/timesyncd.conf \
    /etc/systemd/timesyncd.conf.d/*.conf /run/systemd/timesyncd.conf.d/*.conf /etc/config/system
}

storage() {
  raw mountinfo </proc/self/mountinfo
  # Where an overlay's upper directory lies may only be seen from the root that mounted it.
  if has readlink && _text=$(readlink /proc/1/root 2>/dev/null) && [ "$_text" != / ] && [ -r /proc/1/mountinfo ]; then
    raw mountinfo_init </proc/1/mountinfo
  fi
  # The real path: on some devices /var is a link into memory.
  _dir=/var/lib
  for _name in /var/lib/sallyport /var/lib /var /; do
    if [ -d "$_name" ] && _dir=$(cd -P "$_name" 2>/dev/null && pwd -P); then break; fi
  done
  say "state_dir $_dir"
  if has stat && _text=$(stat -f -c '%a %S %d' "$_dir" 2>/dev/null); then
    say "statfs $_text"
  elif has df; then
    say "df $(df -Pk "$_dir" 2>/dev/null | { _text=; while IFS= read -r _line; do _text=$_line; done; printf '%s' "$_text"; })"
    say "df_inodes $(df -Pi "$_dir" 2>/dev/null | { _text=; while IFS= read -r _line; do _text=$_line; done; printf '%s' "$_text"; })"
  fi
  while read -r _key _value _rest; do
    case $_key in
      MemTotal: | MemFree: | MemAvailable: | Buffers: | Cached:) say "memory $_key $_value" ;;
      SwapTotal:) break ;;
    esac
  done </proc/meminfo
  for _file in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    first_line "$_file"
    if [ -n "$line" ]; then say "memory_limit $line"; fi
  done
  if [ -r /proc/self/cgroup ]; then
    while IFS= read -r _line; do
      case $_line in
        0::/*) _path=${_line#0::} _base=/sys/fs/cgroup _leaf=memory.max ;;
        *:memory:/*) _path=/${_line#*:memory:/} _base=/sys/fs/cgroup/memory _leaf=memory.limit_in_bytes ;;
        *) continue ;;
      esac
      while [ -n "$_path" ] && [ "$_path" != / ]; do
        first_line "$_base$_path/$_leaf"
        if [ -n "$line" ]; then say "memory_limit $line"; fi
        _path=${_path%/*}
      done
    done </proc/self/cgroup
  fi
}

# $class and $scheme of the password field $1. The field itself goes nowhere else: no tool ever gets it.
# shellcheck disable=SC2016  # the dollars are text
classify() {
  class=set scheme=
  _hash=$1
  case $_hash in
    '') class=empty ;;
    '!'*)
      class=locked
      while case $_hash in '!'*) true ;; *) false ;; esac; do _hash=${_hash#?}; done
      ;;
    '*' | 'x' | '*NP*' | '*LK*' | NP | LK) class=none ;;
  esac
  case $_hash in
    '$1$'*) scheme=md5 ;;
    '$2'[abxy]'$'*) scheme=bcrypt ;;
    '$5$'*) scheme=sha256 ;;
    '$6$'*) scheme=sha512 ;;
    '$7$'*) scheme=scrypt ;;
    '$y$'*) scheme=yescrypt ;;
    '$gy$'*) scheme=gost-yescrypt ;;
    '$sha1$'*) scheme=sha1 ;;
    '$md5'*) scheme=sunmd5 ;;
    '$'*) scheme=unknown ;;
    _????????????????????) scheme=bsdi ;;
    *[!./0-9A-Za-z]* | '' | x) ;;
    ?????????????) scheme=des ;;
  esac
  # Text that no scheme can have made is no password: it can never match.
  if [ "$class" = set ] && [ -z "$scheme" ]; then class=none; fi
}

accounts() {
  # Where the daemon looks for keys, or did before a drop-in; %h and %u are filled in for each account.
  _keys=
  for _file in /etc/ssh/sshd_config.d/*.conf /etc/ssh/sshd_config; do
    while read -r _key _value; do
      # Match and AuthorizedKeysFile in any case: no other keyword has such letters there.
      case $_key in
        [Mm]?[Tt]??) break ;;
        [Aa]????????[Dd][Kk]???????) _keys="$_keys $_value" ;;
      esac
    done 2>/dev/null <"$_file" || :
  done
  _keys=${_keys:-.ssh/authorized_keys .ssh/authorized_keys2}
  while IFS=: read -r _name _field _uid _gid _gecos _home _shell || [ -n "$_name" ]; do
    classify "$_field"
    if [ "$_field" = x ]; then class=shadow; fi
    _count=0
    for _file in $_keys; do
      case $_file in
        %h/*) _file=$_home/${_file#???} ;;
        *%u*) _file=${_file%%'%u'*}$_name${_file#*'%u'} ;;
        /*) ;;
        *) _file=$_home/$_file ;;
      esac
      # Whose file it is may have made it endless, of holes.
      if [ -f "$_file" ] && [ -r "$_file" ] && [ -z "$(find -L "$_file" -size +2000 2>/dev/null)" ]; then
        while read -r _word _rest || [ -n "$_word" ]; do
          case $_word in '' | '#'*) ;; *) _count=$((_count + 1)) ;; esac
        done <"$_file"
      fi
    done
    say "account $_name:$_uid:$_gid:$class:$scheme:$_count:$_home:$_shell"
    _name=
  done </etc/passwd
  if [ -r /etc/shadow ]; then
    say shadow_readable
    while IFS=: read -r _name _field _rest || [ -n "$_name" ]; do
      classify "$_field"
      say "shadow $_name:$class:$scheme"
      _name=
    done </etc/shadow
  fi
  _field='' _hash=''
}

# What `commit` left: a change that waits for its confirmation, and the last one that was taken back.
transaction() {
  for _name in armed/tx reverted; do
    _dir=/var/lib/sallyport/$_name
    if [ ! -d "$_dir" ]; then continue; fi
    first_line "$_dir/id"
    say "transaction $_name id $line"
    first_line "$_dir/name"
    say "transaction $_name name $line"
    if [ -f "$_dir/reason" ] && [ -r "$_dir/reason" ] && has head; then
      head -c 2000 "$_dir/reason" | blob "reason $_name"
    fi
  done
}

texts() {
  _own=/etc/systemd/system
  for _file in /etc/inittab /etc/inetd.conf /etc/xinetd.conf /etc/xinetd.d/* /etc/inetd.d/* /etc/ssh/sshd_config \
    /etc/ssh/sshd_config.d/*.conf /etc/rc.local /etc/rc.d/rc.local /etc/init.d/rcS /etc/rcS /etc/crontab /etc/cron.d/* \
    /etc/default/ssh /etc/default/dropbear /etc/default/inetutils-inetd /etc/default/openbsd-inetd \
    /etc/default/telnetd /etc/default/atftpd /etc/default/tftpd-hpa /etc/config/dropbear /etc/securetty \
    /root/.ssh/authorized_keys /etc/dropbear/authorized_keys /etc/sallyport/firewall/rules \
    "$_own"/*getty* "$_own"/*getty*/*.conf; do
    send_file "$_file"
  done
  if [ ! -d /run/systemd/system ]; then
    for _file in /etc/init.d/* /etc/rc.d/*; do
      case $_file in */rcS | */rc.local | */README) ;; *) send_file "$_file" ;; esac
    done
  fi
  # A crontab of root's own may hold secrets in other lines: sent only where it starts something at boot.
  for _file in /var/spool/cron/crontabs/root /var/spool/cron/root /etc/crontabs/root; do
    if [ -f "$_file" ] && [ -r "$_file" ]; then
      # shellcheck disable=SC2094  # send_file reads too
      while read -r _key _rest; do
        if [ "$_key" = @reboot ]; then
          send_file "$_file"
          break
        fi
      done <"$_file"
    fi
  done
  for _file in "$_own"/*.wants/*; do
    if [ -e "$_file" ] || [ -L "$_file" ]; then say "wanted ${_file##*/}"; fi
  done
  # A link to /dev/null; systemctl lists only what is loaded, and a masked unit mostly is not.
  for _file in "$_own"/*.service "$_own"/*.socket; do
    if [ -L "$_file" ] && [ -c "$_file" ]; then say "masked ${_file##*/}"; fi
  done
}

openssh() {
  find_tool sshd
  if [ -z "$found" ]; then return 0; fi
  _sshd=$found
  say "sshd $_sshd"
  # Releases before 9 have no -V; the version is in the complaint.
  { "$_sshd" -V 2>&1 || :; } | while IFS= read -r _line; do
    case $_line in *OpenSSH_*) say "sshd_version $_line" && break ;; esac
  done
  if [ "$uid" = 0 ]; then
    if _text=$("$_sshd" -T 2>/dev/null) || _text=$("$_sshd" -T -C user=root,host=localhost,addr=127.0.0.1 2>/dev/null); then
      printf '%s\n' "$_text" | raw sshd_config
    else
      say "sshd_error $("$_sshd" -T 2>&1 | { IFS= read -r _line || :; printf '%s' "$_line"; })"
    fi
  fi
  find_tool ssh
  if [ -n "$found" ]; then
    for _name in kex cipher mac key HostKeyAlgorithms; do
      # shellcheck disable=SC2046  # one line of many names
      say "ssh_q $_name" $("$found" -Q "$_name" 2>/dev/null)
    done
  fi
  find_tool ssh-keygen
  printf '%s\n' "${_text:-}" | {
    _seen=0
    while read -r _key _value; do
      if [ "$_key" = hostkey ]; then
        _seen=1
        host_key "$_value"
      fi
    done
    if [ "$_seen" = 0 ]; then
      for _file in /etc/ssh/ssh_host_*_key; do if [ -f "$_file" ]; then host_key "$_file"; fi; done
    fi
  }
}

# The public half is computed from the key that is used: a .pub file beside it may belong to another.
host_key() {
  if [ ! -f "$1" ]; then return 0; fi
  if [ -n "$found" ] && [ -r "$1" ] && _public=$("$found" -y -f "$1" 2>/dev/null); then
    say "host_key $1 $_public"
  else
    first_line "$1.pub"
    say "host_key $1 $line"
  fi
}

dropbear_server() {
  find_tool dropbear
  if [ -z "$found" ]; then return 0; fi
  say "dropbear $found"
  say "dropbear_version $("$found" -V 2>&1 | { IFS= read -r _line || :; printf '%s' "$_line"; })"
  for _file in /etc/dropbear/dropbear_*_host_key /etc/config/dropbear_*_host_key; do
    if [ -f "$_file" ]; then dropbear_key "$_file"; fi
  done
  # Keys named by -r on the command line of a running daemon.
  for _dir in /proc/[0-9]*; do
    first_line "$_dir/comm"
    if [ "$line" = dropbear ] && has tr; then
      { tr '\0' '\n' 2>/dev/null <"$_dir/cmdline" || :; } | {
        _next=
        while IFS= read -r _line; do
          if [ -n "$_next" ] && [ -f "$_line" ]; then dropbear_key "$_line"; fi
          _next=
          if [ "$_line" = -r ]; then _next=1; fi
        done
      }
    fi
  done
}

dropbear_key() {
  find_tool dropbearkey
  _public=
  if [ -n "$found" ] && [ -r "$1" ]; then
    _public=$("$found" -y -f "$1" 2>/dev/null | while IFS= read -r _line; do
      case $_line in ssh-* | ecdsa-* | sk-*) printf '%s' "$_line" && break ;; esac
    done) || _public=
  fi
  say "host_key $1 $_public"
}

units() {
  if [ ! -d /run/systemd/system ] || ! has systemctl; then return 0; fi
  _limit=
  if has timeout; then _limit='timeout 10'; fi
  # shellcheck disable=SC2086  # two words or none
  { $_limit systemctl show --no-pager -p Id -p ActiveState -p UnitFileState -p FragmentPath -p Listen \
    '*.service' '*.socket' 2>/dev/null || :; } | raw units
}

# What the kernel really takes. A private network namespace is the proof where one may be made; else a dry run:
# `nft -c` asks the kernel and takes it back, `--test` commits nothing (legacy iptables may find that a table exists,
# empty, from then on), and the set of a unique name goes at once.
firewall() {
  _private=
  if [ "$uid" = 0 ] && has unshare && unshare -n true 2>/dev/null; then _private='unshare -n'; fi
  say "firewall_proof ${_private:-dry}"
  for _name in nft ipset iptables ip6tables; do
    find_tool "$_name"
    if [ -z "$found" ]; then continue; fi
    _path=$found
    case $_name in
      nft) _text=$("$_path" -v 2>&1) || : ;;
      *) _text=$("$_path" -V 2>&1) || : ;;
    esac
    say "firewall $_name $_path ${_text%%
*}"
    if [ "$uid" != 0 ]; then
      say "firewall_error $_name not tried without root"
    elif _error=$(firewall_try "$_name" "$_path" base 2>&1); then
      say "firewall_works $_name"
      say "firewall_error $_name"
      firewall_features "$_name" "$_path"
    else
      say "firewall_error $_name ${_error%%
*}"
    fi
  done
}

# What others drop by default: chains with a policy, and rules that take whatever comes. A list of everything may be
# long, so only these lines travel.
foreign() {
  if [ "$uid" != 0 ] || ! has sed; then return 0; fi
  # nft 0.9.8 crashes on some rules that iptables-nft made; then iptables itself is asked.
  _nft=
  find_tool nft
  if [ -n "$found" ] && _text=$("$found" -s -t list ruleset 2>/dev/null); then
    _nft=1
    printf '%s\n' "$_text" | sed -n '/^table inet sallyport {/,/^}/d
/^table /p
/chain .* {$/p
/type filter hook /p
/^[[:blank:]]*\(counter \)*drop$/p
/^[[:blank:]]*\(counter \)*reject[^"]*$/p' | raw foreign_nft
  fi
  for _name in iptables ip6tables; do
    find_tool "$_name"
    case $("${found:-false}" -V 2>&1) in
      *nf_tables*) if [ "$_nft" ]; then continue; fi ;;
      *)
        # Asking for a table that the kernel does not have makes it.
        case $(cat "/proc/net/${_name%tables}_tables_names" 2>/dev/null) in *filter*) ;; *) continue ;; esac
        ;;
    esac
    "$found" -S 2>/dev/null | sed -n '/^-P.* DROP/p
/^-N ufw/p
/^-A [A-Z]* -j DROP$/p
/^-A [A-Z]* -j REJECT/p' | raw "foreign_$_name"
  done
}

# All at once is the usual answer; one by one only where something is missing.
firewall_features() {
  case $1 in
    nft) _features='synproxy log reject fib nat' ;;
    ipset) return 0 ;;
    *) _features='hashlimit limit comment multiport addrtype reject log nflog synproxy mangle security set' ;;
  esac
  # shellcheck disable=SC2086  # a list of words
  if firewall_try "$1" "$2" $_features 2>/dev/null; then
    say "firewall_features $1 $_features"
  else
    for _feature in $_features; do
      if firewall_try "$1" "$2" "$_feature" 2>/dev/null; then say "firewall_features $1 $_feature"; fi
    done
  fi
}

# firewall_try TOOL PATH FEATURE...: does the kernel load rules that need all of these?
# shellcheck disable=SC2086  # $_private is two words or none
firewall_try() {
  _tool=$1 _tried=$2 _unique=sallyport_probe_$$
  shift 2
  case $_tool in
    nft)
      _flags=-c
      if [ -n "$_private" ]; then _flags=; fi
      {
        printf '%s\n' "table inet $_unique {"
        for _word in "$@"; do nft_feature "$_word"; done
        printf '}\n'
      } | $_private "$_tried" $_flags -f -
      ;;
    ipset)
      printf '%s\n' "create $_unique hash:net" "add $_unique 192.0.2.0/24" "destroy $_unique" |
        $_private "$_tried" restore
      ;;
    *)
      # The set that a rule names must be there before it, in the same namespace.
      find_tool ipset
      _sets=
      case " $* " in *' set '*) _sets=$found ;; esac
      _family=inet
      if [ "$_tool" = ip6tables ]; then _family=inet6; fi
      # shellcheck disable=SC2016  # the dollars are for the inner shell
      for _word in "$@"; do xtables_feature "$_word"; done |
        $_private /bin/sh -c '
          if [ -n "$1" ]; then "$1" create "$2" hash:net family "$3" || exit 1; fi
          status=0
          if [ -n "$5" ]; then "$4-restore" --noflush || status=1; else "$4-restore" --noflush --test || status=1; fi
          if [ -n "$1" ] && [ -z "$5" ]; then "$1" destroy "$2"; fi
          exit "$status"' sh "$_sets" "$_unique" "$_family" "$_tried" "$_private"
      ;;
  esac
}

nft_feature() {
  _input="chain c_$1 { type filter hook input priority 0; policy accept;"
  case $1 in
    base)
      printf '%s\n' 'set s { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }' \
        'set m { type ipv6_addr; flags dynamic,timeout; size 16; timeout 60s; }' \
        "$_input" 'ip saddr @s ct state established counter accept' \
        'tcp dport { 22, 80-81 } update @m { ip6 saddr limit rate 5/second burst 5 packets } accept' '}'
      ;;
    synproxy)
      printf '%s\n' "$_input" \
        'tcp dport 23 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm' '}'
      ;;
    log)
      printf '%s\n' "$_input" 'limit rate 1/second log prefix "x"' '}'
      ;;
    reject)
      printf '%s\n' "$_input" 'reject with icmpx type admin-prohibited' '}'
      ;;
    fib)
      printf '%s\n' "chain c_$1 { type filter hook prerouting priority 0; policy accept;" \
        'fib saddr . iif oif missing drop' '}'
      ;;
    nat)
      printf '%s\n' "chain c_$1 { type nat hook postrouting priority 100; policy accept;" 'masquerade' '}'
      ;;
  esac
}

xtables_feature() {
  _table=filter
  case $1 in
    base) _rule='-p tcp -m conntrack --ctstate NEW -m tcp --dport 22' ;;
    hashlimit) _rule="-m hashlimit --hashlimit-name spp$$ --hashlimit-upto 5/second --hashlimit-burst 5 --hashlimit-mode srcip" ;;
    limit) _rule='-m limit --limit 5/second' ;;
    comment) _rule='-m comment --comment x' ;;
    multiport) _rule='-p tcp -m multiport --dports 22,80:81' ;;
    addrtype) _rule='-m addrtype --dst-type LOCAL' ;;
    set) _rule="-m set --match-set $_unique src" ;;
    mangle | security) _rule='-p tcp' _table=$1 ;;
    reject) _rule='-p tcp -j REJECT --reject-with tcp-reset' ;;
    log) _rule='-j LOG --log-prefix x' ;;
    nflog) _rule='-j NFLOG --nflog-group 1' ;;
    synproxy) _rule='-p tcp -m tcp --syn -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460' ;;
  esac
  case $_rule in *' -j '* | '-j '*) ;; *) _rule="$_rule -j RETURN" ;; esac
  # A chain has 28 letters at most.
  printf '%s\n' "*$_table" ":spp_$1 - [0:0]" "-A spp_$1 $_rule" COMMIT
}

system
# What takes long goes into a pipe, side by side with the reading of /proc, and is sent after it.
{
  exec 3>&1 1>&2
  openssh
  dropbear_server
  units
  firewall
  foreign
} | {
  {
    connection
    processes
    network
    storage
    accounts
    transaction
    texts
  } </dev/null
  cat >&3
}
say complete
