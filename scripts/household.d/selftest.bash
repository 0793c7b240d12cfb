#!/usr/bin/env bash
# Part of scripts/household: the proof that a lab does what it says, on the machine at hand.
#
# Bounds are wide where a busy machine could move a figure, and exact where it could not: limits are upper bounds of
# what gets through, delays are lower bounds of how long it takes.

# Longest waits in seconds: for one call, and for something to come about. A very slow machine needs a multiple.
PATIENCE=${HEARTH_LAB_PATIENCE:-1}
[[ $PATIENCE =~ ^[1-9][0-9]?$ ]] || misuse "HEARTH_LAB_PATIENCE is a whole number from 1 to 99, not '$PATIENCE'"
readonly CALL_SECONDS=$((30 * PATIENCE)) EVENT_SECONDS=$((10 * PATIENCE))

# A lab of its own, so that nobody's is disturbed.
selftest() {
  PASSED=0 FAILED=0
  unset HEARTH_HOME HEARTH_PORT HEARTH_PEERS
  if $1; then selftest_loopback; else
    # In a subshell: need_machine ends the process that asks.
    local reason
    reason=$(need_machine 2>&1) || { echo "skipped: ${reason#household: }"; exit 77; }
    selftest_loopback
    selftest_namespaces
  fi
  echo "$PASSED passed, $FAILED failed"
  [ $FAILED = 0 ]
}

# prove SENTENCE COMMAND...: one check; what the command printed is shown when it fails. The command runs where any
# line that fails ends it, which `if` would switch off.
prove() {
  local sentence=$1 output code=0
  shift
  set +e
  output=$(set -e; "$@" 2>&1)
  code=$?
  set -e
  if [ $code = 0 ]; then
    PASSED=$((PASSED + 1))
    echo "passed  $sentence"
    return
  fi
  FAILED=$((FAILED + 1))
  echo "FAILED  $sentence"
  tail --lines=8 <<<"$output" | while read -r line; do echo "        $line"; done
}

# lab COMMAND...: as a person would call it, on the lab of this test. exec has its name before the host.
lab() {
  local command=$1
  shift
  timeout $CALL_SECONDS "$PARTS/../household" "$command" --name "$TEST_LAB" "$@"
}
on() { lab exec "$@"; }
# background HOST CMD...: stays when the check ends (a check waits for whoever could still print); down ends it.
background() { "$PARTS/../household" exec --name "$TEST_LAB" "$@" </dev/null >/dev/null 2>&1 & }

# fails COMMAND... (any code), fails_with CODE COMMAND...
fails() {
  if "$@"; then echo "went well, and must not: $*"; return 1; fi
}
fails_with() {
  local expected=$1 code=0
  shift
  "$@" || code=$?
  [ $code = "$expected" ] || { echo "code $code, expected $expected: $*"; return 1; }
}

# eventually COMMAND...: succeeds within EVENT_SECONDS.
eventually() {
  local deadline=$((SECONDS + EVENT_SECONDS))
  until "$@"; do
    [ $SECONDS -lt $deadline ] || { echo "not within $EVENT_SECONDS s: $*"; return 1; }
    sleep 0.1
  done
}

# is AWK-CONDITION NAME=VALUE...: prints the values and whether the condition over them holds.
is() {
  local condition=$1 options=() pair
  shift
  for pair in "$@"; do
    [[ $pair =~ =[0-9.]+$ ]] || { echo "not a number: $pair"; return 1; }
    options+=(-v "$pair")
  done
  awk "${options[@]}" "BEGIN { exit !($condition) }" || { echo "$condition fails with $*"; return 1; }
}

same() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; return 1; }; }

# ---- loopback

selftest_loopback() {
  TEST_LAB=loop$$
  trap 'lab down' EXIT
  prove "a loopback lab goes up without root's means" lab up 3 --loopback
  prove "its hosts have their own state directories and ports" loopback_hosts_differ
  prove "link says that it needs namespaces, code 77" fails_with 77 lab link 1 lan
  prove "cpu says that it needs namespaces, code 77" fails_with 77 lab cpu 1 0.5
  prove "exec hands on the code of its command" fails_with 9 on 2 sh -c 'exit 9'
  prove "a program of a sleeping host stands still" loopback_sleep_seen
  prove "down ends what exec started, and leaves no directory" loopback_down_is_complete
  trap - EXIT
}

# shellcheck disable=SC2016
loopback_hosts_differ() {
  local one two
  one=$(on 1 sh -c 'echo $HEARTH_PORT $HEARTH_HOME $HEARTH_PEERS')
  two=$(on 2 sh -c 'echo $HEARTH_PORT $HEARTH_HOME $HEARTH_PEERS')
  echo "$one; $two"
  local one_port one_home one_peers two_port two_home two_peers
  read -r one_port one_home one_peers <<<"$one"
  read -r two_port two_home two_peers <<<"$two"
  same "$one_peers" "127.0.0.1:$two_port,127.0.0.1:$((two_port + 1))"
  same "$two_peers" "127.0.0.1:$one_port,127.0.0.1:$((two_port + 1))"
  fails same "$one_home" "$two_home"
  same "$(stat --format %a "$one_home" "$two_home" | paste --serial)" $'700\t700'
}

# The state letter of the process that exec started: S sleeps as programs do, T is stopped.
loopback_sleep_seen() {
  local pid
  background 1 sleep 600
  eventually finds_program 1 sleep
  pid=$(program_of 1 sleep)
  lab sleep 1
  eventually grep --quiet '^State:.*T' "/proc/$pid/status"
  fails_with 1 on 1 true
  lab wake 1
  eventually grep --quiet '^State:.*S' "/proc/$pid/status"
}

loopback_down_is_complete() {
  finds_program 1 sleep
  lab down
  fails test -e "$(state_of_test_lab)"
  fails finds_program 1 sleep
}

# program_of HOST NAME: the process of that name that the test lab's host runs.
program_of() {
  local pid
  for pid in $(marked_processes "HEARTH_LAB=$(state_of_test_lab)"); do
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] &&
      grep --quiet --null-data --line-regexp "HEARTH_LAB_HOST=$1" "/proc/$pid/environ"; then
      echo "$pid"
      return
    fi
  done
  return 1
}
finds_program() { program_of "$@" >/dev/null; }
# shellcheck disable=SC2153
state_of_test_lab() { echo "${STATE%/*}/hearth-lab-$TEST_LAB"; }

# ---- namespaces

selftest_namespaces() {
  TEST_LAB=test$$
  trap 'lab down' EXIT
  prove "three hosts go up" lab up 3 --profile bare
  [ $FAILED = 0 ] || return 0
  prove "a second lab of the same name is refused, and the first unharmed" second_lab_refused
  prove "hosts have their own names, ids and networks" hosts_are_separate
  prove "hosts send with CUBIC, where the kernel has it" hosts_send_with_cubic
  prove "every host reaches every other one, over IPv4 and IPv6" everybody_reaches_everybody
  prove "two hosts do not see each other's 127.0.0.1" loopback_is_private
  prove "a service published on 1 is found on 2, and resolved" service_is_found
  prove "what is cut is cut, and nothing else" cut_seen
  prove "a one-way cut lets the other direction pass" one_way_cut_seen
  prove "a link's delay is on the round trip, and goes again" delay_seen
  prove "a link's loss loses packets" loss_seen
  if command -v iperf3 >/dev/null; then
    prove "a link's rate bounds both directions" rate_seen
  else
    echo "skipped a link's rate: iperf3 is missing (apt-get install iperf3)"
  fi
  if group_works_here freezer; then
    prove "a sleeping host is silent and stands still, and wakes" sleep_seen
  fi
  prove "avahi and the bus stop, are missed, and start again" services_stop_and_start
  if group_works_here cpu; then
    prove "a CPU share holds" cpu_share_holds
    if [ "$(nproc)" -gt 1 ]; then prove "a host with one processor or less keeps to one" processor_is_kept; fi
  fi
  if group_works_here memory; then prove "too much memory kills, on that host alone" memory_limit_kills; fi
  prove "down leaves no process, mount, control group or directory" down_is_complete
  prove "down after an up that was killed half-way cleans up, too" killed_up_is_cleaned
  prove "an interrupted up cleans up after itself" interrupted_up_cleans
  trap - EXIT
}

group_works_here() {
  find_control_groups
  group_can_be_made "$1" || { echo "skipped $1: no control group (scripts/household check)"; return 1; }
}

second_lab_refused() {
  fails_with 1 lab up 2
  on 3 true
}

# shellcheck disable=SC2016
hosts_are_separate() {
  local one two what='hostname; cat /etc/machine-id; readlink /proc/self/ns/net; echo $(ls /sys/class/net)'
  one=$(on 1 sh -c "$what")
  two=$(on 2 sh -c "$what")
  echo "$one $two"
  same "$(sed -n 1p <<<"$one") $(sed -n 1p <<<"$two")" "h1 h2"
  fails same "$(sed -n 2p <<<"$one")" "$(sed -n 2p <<<"$two")"
  fails same "$(sed -n 3p <<<"$one")" "$(sed -n 3p <<<"$two")"
  same "$(sed -n 4p <<<"$one")" "eth0 lo"
}

hosts_send_with_cubic() {
  local host
  grep --quiet --word-regexp cubic /proc/sys/net/ipv4/tcp_available_congestion_control || return 0
  for host in 1 2 3; do same "$(on $host cat /proc/sys/net/ipv4/tcp_congestion_control)" cubic; done
}

reaches() { on "$1" ping -c 1 -W "${3:-2}" -q "$2"; }

everybody_reaches_everybody() {
  local from to
  for from in 1 2 3; do
    for to in 1 2 3; do
      reaches $from 10.77.0.$to
      reaches $from fd77::$to
    done
  done
}

loopback_is_private() {
  background 1 dbus-daemon --session --nofork --address=tcp:host=127.0.0.1,port=7171,family=ipv4
  eventually on 1 bash -c ': </dev/tcp/127.0.0.1/7171'
  fails on 2 bash -c ': </dev/tcp/127.0.0.1/7171'
}

service_is_found() {
  background 1 avahi-publish --service "printer of one" _ipp._tcp 6310 color=no
  eventually service_seen 2
}
service_seen() {
  on "$1" avahi-browse --resolve --parsable --terminate _ipp._tcp | tee /dev/stderr |
    grep '^=;eth0;IPv4;.*;h1.local;10.77.0.1;6310;' >/dev/null
}

cut_seen() {
  lab cut 1 2,3
  fails reaches 1 10.77.0.2 0.3
  fails reaches 3 fd77::1 0.3
  reaches 2 10.77.0.3
  lab heal
  eventually reaches 1 10.77.0.2
}

# Packets from 2 to 1 are dropped, so 1 gets no answer from 2, and 2 still sees that 1 asks.
one_way_cut_seen() {
  local before after
  lab cut 2 1 --one-way
  before=$(received_echoes 2)
  fails reaches 1 10.77.0.2 0.3
  after=$(received_echoes 2)
  lab heal
  is "after == before + 1" before="$before" after="$after"
}
# The counter InEchos.
received_echoes() { on "$1" cat /proc/net/snmp | awk '$1 == "Icmp:" && $2 ~ /^[0-9]/ { print $10 }'; }

# ping -U: from the program's clock. Without it ping uses the stamp that the kernel gives before packets wait.
round_trip_ms() { on 1 ping -U -c 3 -i 0.2 -W 5 -q 10.77.0.2 | sed -n 's|^rtt[^=]*= \([0-9.]*\)/.*|\1|p'; }

delay_seen() {
  local with without
  lab link 2 delay=120
  with=$(round_trip_ms)
  lab link 2 delay=0
  without=$(round_trip_ms)
  is "with >= 120 && with < 600 && without < 120" with="$with" without="$without"
}

loss_seen() {
  local received
  lab link 2 loss=100
  fails reaches 1 10.77.0.2 0.3
  fails reaches 1 fd77::2 0.3
  lab link 2 loss=50 burst=3
  received=$(on 1 ping -c 200 -i 0.005 -W 1 -q 10.77.0.2 | sed -n 's/.* \([0-9]*\) received.*/\1/p')
  lab link 2 loss=0 burst=1
  # Mean 100. Losses come in runs of mean length 3, so the deviation is sqrt(200 / 4 * 2) * sqrt(2) or so, about 16.
  # The bounds are 4 of those away.
  is "received > 36 && received < 164" received="$received"
  reaches 1 10.77.0.2
}

rate_seen() {
  local up down
  lab link 2 rate=20mbit
  on 2 iperf3 --server --daemon --logfile /dev/null
  eventually on 1 iperf3 --client 10.77.0.2 --time 1 >/dev/null
  up=$(megabits)
  down=$(megabits --reverse)
  lab link 2 rate=0
  is "up > 5 && up < 21 && down > 5 && down < 21" up="$up" down="$down"
  is "free > 21" free="$(megabits)"
}
megabits() {
  on 1 iperf3 --client 10.77.0.2 --time 2 --omit 1 --format m "$@" | awk '$NF == "receiver" { print $(NF - 2) }'
}

sleep_seen() {
  local pid
  background 3 dd if=/dev/zero of=/dev/null bs=1k status=none
  eventually finds_program 3 dd
  pid=$(program_of 3 dd)
  eventually goes_on "$pid"
  lab sleep 3
  fails reaches 1 10.77.0.3 0.3
  fails goes_on "$pid"
  fails_with 1 on 3 true
  lab wake 3
  eventually reaches 1 10.77.0.3
  eventually goes_on "$pid"
  kill "$pid"
}
processor_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
goes_on() {
  local before
  before=$(processor_ticks "$1")
  sleep 0.3
  [ "$(processor_ticks "$1")" -gt "$before" ]
}

services_stop_and_start() {
  eventually service_seen 2
  lab avahi 2 kill
  fails service_seen 2
  lab avahi 2 start
  eventually service_seen 2
  lab avahi 2 stop
  lab bus 2 stop
  fails_with 1 lab avahi 2 start
  lab bus 2 start
  lab avahi 2 start
  eventually service_seen 2
}

processors_of() { on "$1" awk '$1 == "Cpus_allowed_list:" { print $2 }' "/proc/${2:-self}/status"; }

processor_is_kept() {
  local began free
  free=$(processors_of 1)
  background 1 sleep 61.75
  eventually pgrep --exact --full 'sleep 61.75'
  began=$(pgrep --exact --full 'sleep 61.75')
  lab cpu 1,2 0.5
  same "$(processors_of 1 "$began")" "$(processors_of 1)"
  if [ "$(processors_of 1)" = "$(processors_of 2)" ]; then echo "two hosts share a processor"; return 1; fi
  lab cpu 1,2 none
  same "$(processors_of 1 "$began")" "$free"
  same "$(processors_of 2)" "$free"
  kill "$began"
}

cpu_share_holds() {
  local used
  lab cpu 1 0.2
  used=$(busy_seconds)
  lab cpu 1 none
  # 2 s at 0.2, and a period or two of 20 ms at the ends. Other load can only take from it.
  is "used <= 0.45 && used > 0.01" used="$used"
  is "free > 1.2 * used" free="$(busy_seconds)" used="$used"
}
busy_seconds() {
  on 1 bash -c 'TIMEFORMAT="%U %S"; time timeout 2 dd if=/dev/zero of=/dev/null bs=1k status=none || true' 2>&1 |
    awk 'END { print $1 + $2 }'
}

# tail keeps all of a line that does not end.
memory_limit_kills() {
  local hungry='head --bytes=200M /dev/zero | tail --lines=1 >/dev/null'
  on 1 bash -o pipefail -c "$hungry"
  lab mem 1 64M
  fails_with 137 on 1 bash -o pipefail -c "$hungry"
  on 2 bash -o pipefail -c "$hungry"
  on 1 true
  lab mem 1 none
  on 1 bash -o pipefail -c "$hungry"
}

# One program of a sleeping host, one that left its parent, one without the environment that marks it.
down_is_complete() {
  background 2 setsid sleep 600
  background 3 env --ignore-environment sleep 601
  eventually finds_program 2 sleep
  eventually pgrep --full --exact 'sleep 601'
  if group_works_here freezer; then lab sleep 3; fi
  lab down
  nothing_is_left
  lab down
}

nothing_is_left() {
  local state controller left=''
  state=$(state_of_test_lab)
  if [ -e "$state" ]; then left+=" $state"; fi
  if grep --quiet --fixed-strings "hearth-lab-$TEST_LAB" /proc/[0-9]*/mountinfo 2>/dev/null; then left+=" mounts"; fi
  left+=$(marked_processes "HEARTH_LAB=$state")
  if pgrep --full --exact 'sleep 601' >/dev/null; then left+=" a process without environment"; fi
  find_control_groups
  for controller in $CONTROLLERS; do
    if [ -e "${GROUP_ROOT[$controller]:-/none}/hearth-lab-$TEST_LAB" ]; then left+=" $controller group"; fi
  done
  [ -z "$left" ] || { echo "left:$left"; return 1; }
}

# At several moments, from before the first host to after the last one.
killed_up_is_cleaned() {
  local pause
  for pause in 0.15 0.4 0.7 1.0; do
    "$PARTS/../household" up 3 --name "$TEST_LAB" >/dev/null 2>&1 &
    sleep $pause
    kill -KILL $! 2>/dev/null || true
    lab down
    nothing_is_left
  done
  lab up 1
  lab down
  nothing_is_left
}

interrupted_up_cleans() {
  local code=0
  "$PARTS/../household" up 4 --name "$TEST_LAB" >/dev/null 2>&1 &
  eventually test -e "$(state_of_test_lab)/1/net"
  kill -TERM $!
  wait $! || code=$?
  same $code 130
  nothing_is_left
}
