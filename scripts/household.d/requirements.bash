#!/usr/bin/env bash
# Part of scripts/household: what a lab needs of the machine, and how to get it.

# Program and the Debian package that has it; an optional one makes selftest prove more.
requirements() {
  cat <<'TABLE'
ip iproute2
tc iproute2
iptables iptables
ip6tables iptables
nft nftables
dbus-daemon dbus
avahi-daemon avahi-daemon
avahi-browse avahi-utils
avahi-publish avahi-utils
nsenter util-linux
unshare util-linux
taskset util-linux
mount mount
hostname hostname
awk mawk
ping iputils-ping
pgrep procps
iperf3 iperf3 optional
TABLE
}

compiler() { command -v cc || command -v clang || command -v gcc; }

# missing_packages [required]: one a line; with "required", without the optional ones.
missing_packages() {
  local program package kind
  {
    while read -r program package kind; do
      if [ "$kind" = optional ] && [ "${1:-}" = required ]; then continue; fi
      command -v "$program" >/dev/null || echo "$package"
    done < <(requirements)
    compiler >/dev/null || printf '%s\n' gcc libc6-dev
  } | sort --unique
}

# try COMMANDS: whether shell commands succeed as root of a network, mount and UTS namespace that ends with them.
try() { unshare --net --mount --uts --propagation private bash -euc "$1" >/dev/null 2>&1; }

readonly TRY_NAMESPACES='hostname probe; mount -t tmpfs tmpfs /mnt'
readonly TRY_SWITCH='ip link add br0 type bridge; ip link add h1 type veth peer name eth0; ip link set h1 master br0'
readonly TRY_RATE='tc qdisc add dev lo root tbf rate 1mbit burst 32kb limit 64kb'
# shellcheck disable=SC2016
readonly TRY_DELAY='for t in iptables ip6tables; do
  $t --table mangle --append PREROUTING --jump NFQUEUE --queue-num 1 --queue-bypass; done'
readonly TRY_CUT='nft add table bridge t; nft "add chain bridge t c { type filter hook forward priority 0; }"
  nft "add rule bridge t c iifname { a, b } oifname { c } drop"'

# Ends with 77 and the first reason why this machine cannot play hosts in namespaces.
need_machine() {
  local missing
  [ "$(uname -s)" = Linux ] || cannot "hosts need Linux namespaces, and this is $(uname -s)"
  [ "$(id -u)" = 0 ] ||
    cannot "hosts in namespaces need root (sudo scripts/household ...); without root: scripts/household up N --loopback"
  missing=$(missing_packages required | paste --serial --delimiters ' ')
  [ -z "$missing" ] || cannot "missing programs; run: scripts/bootstrap --lab, or: apt-get install $missing"
  try "$TRY_NAMESPACES; $TRY_SWITCH; $TRY_RATE; $TRY_DELAY; $TRY_CUT" || explain_refusal
}

explain_refusal() {
  try "$TRY_NAMESPACES" ||
    cannot "this machine does not let root make namespaces (a container without CAP_SYS_ADMIN?); use --loopback"
  try "$TRY_SWITCH" || cannot "this kernel has no bridge or no veth device; use --loopback"
  try "$TRY_RATE" || cannot "this kernel has no tbf queueing discipline (CONFIG_NET_SCH_TBF)"
  try "$TRY_DELAY" || cannot "this kernel has no NFQUEUE target (CONFIG_NETFILTER_XT_TARGET_NFQUEUE)"
  try "$TRY_CUT" || cannot "this kernel has no nftables for bridges (CONFIG_NF_TABLES_BRIDGE)"
  cannot "a probe failed once and then worked; try again"
}

# report SENTENCE NEXT-STEP COMMAND...: one line of `check`.
report() {
  local sentence=$1 remedy=$2
  shift 2
  if "$@" >/dev/null 2>&1; then printf 'yes  %s\n' "$sentence"; else
    printf 'no   %s: %s\n' "$sentence" "$remedy"
    WORKS=false
  fi
}

nothing_missing() { [ -z "$(missing_packages required)" ]; }

check_machine() {
  WORKS=true
  local config='the kernel lacks the option, or this is a restricted container' controller
  report "programs" "scripts/bootstrap --lab, or apt-get install $(missing_packages required | paste -sd ' ')" \
    nothing_missing
  report "root" "sudo, or scripts/household up N --loopback" [ "$(id -u)" = 0 ]
  report "network, mount and UTS namespaces" "needs root with CAP_SYS_ADMIN" try "$TRY_NAMESPACES"
  report "switch of bridge and veth" "$config" try "$TRY_SWITCH"
  report "rate (tbf)" "$config (CONFIG_NET_SCH_TBF)" try "$TRY_RATE"
  report "delay, jitter and loss (NFQUEUE)" "$config (CONFIG_NETFILTER_XT_TARGET_NFQUEUE)" try "$TRY_DELAY"
  report "cuts (nftables for bridges)" "$config (CONFIG_NF_TABLES_BRIDGE)" try "$TRY_CUT"
  find_control_groups
  for controller in $CONTROLLERS; do
    report "$controller control group, version ${GROUP_VERSION[$controller]:-?}" \
      "no writable hierarchy has this controller; hosts come up, but ${CONTROLLER_USE[$controller]}" \
      group_can_be_made "$controller"
  done
  command -v iperf3 >/dev/null || echo "no   iperf3 (selftest then leaves rates out): apt-get install iperf3"
  echo "yes  loopback lab, without root (up N --loopback)"
  $WORKS || exit 77
}
