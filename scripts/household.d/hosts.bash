#!/usr/bin/env bash
# Part of scripts/household: one host: its namespaces, network, system bus, avahi-daemon and environment.
#
# $STATE/I holds what belongs to host I: the pins of its namespaces (net, mnt, uts), its directories for Hearth,
# and files that take the place of the machine's own in /etc. A pinned namespace lives without a process.

readonly HOST_DIRECTORIES="hearth config data state cache run"

# in_host I CMD...: in the host's namespaces, not in its control groups. The variable marks the process as the lab's.
in_host() {
  local directory=$STATE/$1
  shift
  HEARTH_LAB=$STATE nsenter --net="$directory/net" --mount="$directory/mnt" --uts="$directory/uts" -- "$@"
}

# in_network I CMD...: only its network namespace; the network's tools need no more.
in_network() {
  local directory=$STATE/$1
  shift
  HEARTH_LAB=$STATE nsenter --net="$directory/net" -- "$@"
}

in_switch() { HEARTH_LAB=$STATE nsenter --net="$STATE/switch" -- "$@"; }

make_host_directories() {
  local directory=$STATE/$1 name
  mkdir --mode 700 "$directory"
  for name in $HOST_DIRECTORIES; do mkdir --mode 700 "$directory/$name"; done
}

write_host_files() {
  local directory=$STATE/$1 name=h$1
  mkdir "$directory/etc"
  echo "$name" >"$directory/etc/hostname"
  # Its own machine id, or all hosts would be clones of one device.
  tr --delete - </proc/sys/kernel/random/uuid >"$directory/etc/machine-id"
  printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$name" >"$directory/etc/hosts"
  # The rate limit is raised because tests publish and withdraw more often than people do.
  cat >"$directory/avahi.conf" <<CONF
[server]
host-name=$name
use-ipv4=yes
use-ipv6=yes
allow-interfaces=eth0
ratelimit-interval-usec=1000000
ratelimit-burst=1000
[wide-area]
enable-wide-area=no
[publish]
publish-hinfo=no
publish-workstation=no
CONF
}

# Runs inside a host's new namespaces: $1 its directory, $2 its name, $3 the lab's directory.
# shellcheck disable=SC2016
readonly FURNISH_HOST='
  directory=$1 name=$2 state=$3
  # Pins of other hosts and labs came along as copies of mounts and would outlive their labs in here.
  awk "\$5 ~ /\/hearth-lab-/ { print \$5 }" /proc/self/mountinfo | tac |
    while read -r pin; do umount --lazy "$pin"; done
  hostname "$name"
  # A /run of its own: sockets of the machine itself (its bus, its resolver) are out of reach.
  mkdir "$directory/newrun"
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$directory/newrun"
  mkdir "$directory/newrun/dbus" "$directory/newrun/avahi-daemon" "$directory/newrun/lock" "$directory/newrun/mount"
  case $state in
    /run/*)
      mkdir --parents "$directory/newrun/${state#/run/}"
      mount --bind "$state" "$directory/newrun/${state#/run/}" ;;
  esac
  mount --no-mtab --move "$directory/newrun" /run
  for file in hostname hosts machine-id; do
    if [ -f "/etc/$file" ]; then mount --bind "$directory/etc/$file" "/etc/$file"; fi
  done
  if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
    mount --bind "$directory/etc/machine-id" /var/lib/dbus/machine-id
  fi
  # /sys shows the network devices of the namespace that mounted it. Some containers forbid to mount it again; then
  # programs that list /sys/class/net see those of the machine.
  mkdir "$directory/cgroup"
  mount --rbind /sys/fs/cgroup "$directory/cgroup"
  if mount -t sysfs sysfs /sys 2>/dev/null; then mount --move "$directory/cgroup" /sys/fs/cgroup
  else umount --lazy "$directory/cgroup"; fi
  rmdir "$directory/cgroup"
  ip link set lo up'

make_host() {
  local host=$1 directory=$STATE/$1
  make_host_directories "$host"
  write_host_files "$host"
  make_host_groups "$host"
  touch "$directory/net" "$directory/mnt" "$directory/uts"
  HEARTH_LAB=$STATE unshare --net="$directory/net" --mount="$directory/mnt" --uts="$directory/uts" \
    --propagation private bash -euo pipefail -c "$FURNISH_HOST" furnish "$directory" "h$host" "$STATE"
  rmdir "$directory/newrun"
}

# make_switch N: a bridge in a network namespace of its own, with a cable to each of N hosts.
make_switch() {
  local host
  touch "$STATE/switch"
  HEARTH_LAB=$STATE unshare --net="$STATE/switch" ip link set lo up
  {
    # No snooping: a switch that forwards multicast everywhere, as most household switches do.
    echo "link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0"
    echo "link set br0 up"
    for host in $(seq "$1"); do
      echo "link add h$host type veth peer name eth0 address 02:77:00:00:00:$(printf %02x "$host") netns $STATE/$host/net"
      echo "link set h$host master br0 up"
    done
  } | in_switch ip -batch -
}

configure_network() {
  local host=$1
  # Addresses count at once: the lab has no duplicates and no router to hear of. Hosts send as Linux does out of the box,
  # and not with the machine's BBR, whose timers take processor time that devices do not have to give.
  # shellcheck disable=SC2016
  in_network "$host" bash -euc '
    if grep --quiet --word-regexp cubic /proc/sys/net/ipv4/tcp_available_congestion_control; then
      echo cubic >/proc/sys/net/ipv4/tcp_congestion_control
    fi
    for setting in accept_dad accept_ra; do
      file=/proc/sys/net/ipv6/conf/eth0/$setting
      if [ -e $file ]; then echo 0 >$file; fi
    done'
  {
    echo "link set eth0 up"
    echo "addr add 10.77.0.$host/24 broadcast + dev eth0"
    if [ -d /proc/sys/net/ipv6 ]; then echo "addr add fd77::$host/64 dev eth0 nodad"; fi
    # Everything is on this link: multicast and broadcast find their way, and nothing has another one out.
    echo "route add default dev eth0"
  } | in_network "$host" ip -batch -
}

# is_alive PID: running, and not a zombie that nobody has collected yet.
is_alive() {
  local text
  { read -r text <"/proc/$1/stat"; } 2>/dev/null || return 1
  text=${text##*) }
  [[ ${text%% *} != [ZX] ]]
}

# runs_on PID HOST: alive and in the host's network, so that a stale number never hits a stranger.
runs_on() {
  [[ $1 =~ ^[0-9]+$ ]] && is_alive "$1" &&
    [ "$(stat --dereference --format %d:%i "/proc/$1/ns/net")" = "$(stat --format %d:%i "$STATE/$2/net")" ]
}

# end_process PID HOST SIGNAL: signals it if it is the host's, and waits up to 5 s until it is gone.
end_process() {
  local try
  runs_on "$1" "$2" || return 0
  kill -"$3" "$1" 2>/dev/null || return 0
  for try in $(seq 250); do
    is_alive "$1" || return 0
    sleep 0.02
  done
  fail "process $1 of host $2 did not end on SIG$3 (looked $try times)"
}

bus_process() { cat "$STATE/$1/bus.pid" 2>/dev/null || echo none; }
avahi_process() { in_host "$1" cat /run/avahi-daemon/pid 2>/dev/null || echo none; }

control_bus() {
  local host=$1
  case $2 in
    start)
      ! runs_on "$(bus_process "$host")" "$host" || return 0
      (enter_groups "$host"; in_host "$host" dbus-daemon --system --fork --nopidfile --print-pid) \
        >"$STATE/$host/bus.pid" 2>"$STATE/$host/bus.log" </dev/null ||
        fail "dbus-daemon does not start on host $host: $(tail -n 1 "$STATE/$host/bus.log")" ;;
    stop)
      end_process "$(bus_process "$host")" "$host" TERM
      rm --force "$STATE/$host/bus.pid"
      in_host "$host" rm --force /run/dbus/system_bus_socket ;;
    *) misuse "bus takes start or stop, not '$2'" ;;
  esac
}

control_avahi() {
  local host=$1
  case $2 in
    start)
      ! runs_on "$(avahi_process "$host")" "$host" || return 0
      in_host "$host" rm --force /run/avahi-daemon/pid
      (enter_groups "$host"; in_host "$host" avahi-daemon --daemonize --file="$STATE/$host/avahi.conf" \
        --no-chroot --no-rlimits) >"$STATE/$host/avahi.log" 2>&1 </dev/null ||
        fail "avahi-daemon does not start on host $host (is its bus running?): $(tail -n 1 "$STATE/$host/avahi.log")" ;;
    stop) end_process "$(avahi_process "$host")" "$host" TERM ;;
    kill) end_process "$(avahi_process "$host")" "$host" KILL ;;
    *) misuse "avahi takes start, stop or kill, not '$2'" ;;
  esac
}

# host_environment I: NAME=VALUE for each variable of a program on the host, one a line.
host_environment() {
  local directory=$STATE/$1
  cat <<VARIABLES
HEARTH_LAB=$STATE
HEARTH_LAB_HOST=$1
HEARTH_HOME=$directory/hearth
XDG_CONFIG_HOME=$directory/config
XDG_DATA_HOME=$directory/data
XDG_STATE_HOME=$directory/state
XDG_CACHE_HOME=$directory/cache
XDG_RUNTIME_DIR=$directory/run
VARIABLES
  if is_loopback; then loopback_environment "$1"; fi
}

host_exec() {
  local host variables
  host=$(one_host "$1") || exit
  shift
  [ ! -e "$STATE/$host/asleep" ] || fail "host $host is asleep; first: scripts/household wake $host --name $LAB"
  mapfile -t variables < <(host_environment "$host")
  if is_loopback; then exec env "${variables[@]}" "$@"; fi
  enter_groups "$host"
  exec nsenter --net="$STATE/$host/net" --mount="$STATE/$host/mnt" --uts="$STATE/$host/uts" -- \
    env --unset=DBUS_SYSTEM_BUS_ADDRESS --unset=DBUS_SESSION_BUS_ADDRESS --chdir="$PWD" "${variables[@]}" "$@"
}
