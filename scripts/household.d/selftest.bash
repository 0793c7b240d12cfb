#!/usr/bin/env bash
# Part of scripts/household: the proof that a lab does what it says, on the machine at hand.
#
# Bounds are wide where a busy machine could move a figure, and exact where it could not: limits are upper bounds of
# what gets through, delays are lower bounds of how long it takes.

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

# prove SENTENCE COMMAND...: one check; what the command printed is shown when it fails.
prove() {
  local sentence=$1 output
  shift
  if output=$("$@" 2>&1); then
    PASSED=$((PASSED + 1))
    echo "passed  $sentence"
  else
    FAILED=$((FAILED + 1))
    echo "FAILED  $sentence"
    tail --lines=8 <<<"$output" | while read -r line; do echo "        $line"; done
  fi
}

# lab COMMAND...: as a person would call it, on the lab of this test. exec has its name before the host.
lab() {
  local command=$1
  shift
  timeout 30 "$PARTS/../household" "$command" --name "$TEST_LAB" "$@"
}
on() { lab exec "$@"; }
# background HOST CMD...: stays when the check ends (a check waits for whoever could still print); down ends it.
background() { "$PARTS/../household" exec --name "$TEST_LAB" "$@" </dev/null >/dev/null 2>&1 & }

# fails_with CODE COMMAND...
fails_with() {
  local expected=$1 code=0
  shift
  "$@" || code=$?
  [ $code = "$expected" ] || { echo "code $code, expected $expected"; return 1; }
}

# eventually COMMAND...: succeeds within 10 s.
eventually() {
  local deadline=$((SECONDS + 10))
  until "$@"; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

# is AWK-CONDITION NAME=VALUE...: prints the values and whether the condition over them holds.
is() {
  local condition=$1 options=() pair
  shift
  echo "$condition with $*"
  for pair in "$@"; do options+=(-v "$pair"); done
  awk "${options[@]}" "BEGIN { exit !($condition) }"
}

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

loopback_hosts_differ() {
  local one two
  # shellcheck disable=SC2016
  one=$(on 1 sh -c 'echo $HEARTH_PORT $HEARTH_HOME $HEARTH_PEERS')
  # shellcheck disable=SC2016
  two=$(on 2 sh -c 'echo $HEARTH_PORT $HEARTH_HOME $HEARTH_PEERS')
  echo "$one; $two"
  read -r port home peers <<<"$two"
  [[ $one != *"$home"* && -d $home && $one == *"127.0.0.1:$port"* && $peers == *,* ]]
  [ "$(stat --format %a "$home")" = 700 ]
}

# The state letter of the process that exec started: S sleeps as programs do, T is stopped.
loopback_sleep_seen() {
  background 1 sleep 600
  local pid
  eventually finds_program 1 sleep || return 1
  pid=$(program_of 1 sleep)
  lab sleep 1
  eventually grep --quiet '^State:.*T' "/proc/$pid/status" || return 1
  fails_with 1 on 1 true || return 1
  lab wake 1
  eventually grep --quiet '^State:.*S' "/proc/$pid/status"
}

loopback_down_is_complete() {
  local base=${XDG_RUNTIME_DIR:-/tmp}
  finds_program 1 sleep || { echo "the program of the check before is not there"; return 1; }
  lab down || return 1
  [ ! -e "$base/hearth-lab-$TEST_LAB" ] && ! finds_program 1 sleep
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
  prove "a second lab of the same name is refused, and the first unharmed" second_lab_refused
  prove "hosts have their own names, ids and networks" hosts_are_separate
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
  prove "a sleeping host is silent and stands still, and wakes" sleep_seen
  prove "avahi and the bus stop, are missed, and start again" services_stop_and_start
  if group_can_be_made_now cpu; then prove "a CPU share holds" cpu_share_holds; fi
  if group_can_be_made_now memory; then prove "too much memory kills, on that host alone" memory_limit_kills; fi
  prove "down leaves no process, mount, control group or directory" down_is_complete
  prove "down after an up that was killed half-way cleans up, too" killed_up_is_cleaned
  trap - EXIT
}

group_can_be_made_now() {
  find_control_groups
  group_can_be_made "$1" || { echo "skipped $1: no control group (scripts/household check)"; return 1; }
}

second_lab_refused() { fails_with 1 lab up 2 && on 3 true; }

hosts_are_separate() {
  local one two what='hostname; cat /etc/machine-id; readlink /proc/self/ns/net; ls /sys/class/net'
  one=$(on 1 sh -c "$what") two=$(on 2 sh -c "$what")
  echo "$one $two"
  [ "$(head -n 1 <<<"$one")" = h1 ] && [ "$(sed -n 4,5p <<<"$one" | paste -sd ' ')" = "eth0 lo" ] &&
    [ "$(head -n 3 <<<"$one $two" | sort | uniq --repeated)" = "" ] && [ "$(sed -n 2p <<<"$one")" != "$(sed -n 2p <<<"$two")" ]
}

reaches() { on "$1" ping -c 1 -W "${3:-2}" -q "$2"; }

everybody_reaches_everybody() {
  local from to
  for from in 1 2 3; do
    for to in 1 2 3; do reaches "$from" 10.77.0.$to && reaches "$from" fd77::$to || return 1; done
  done
}

loopback_is_private() {
  background 1 dbus-daemon --session --nofork --address=tcp:host=127.0.0.1,port=7171,family=ipv4
  eventually on 1 bash -c ': </dev/tcp/127.0.0.1/7171' || return 1
  ! on 2 bash -c ': </dev/tcp/127.0.0.1/7171'
}

service_is_found() {
  background 1 avahi-publish --service "printer of one" _ipp._tcp 6310 color=no
  eventually service_seen 2
}
service_seen() {
  on "$1" avahi-browse --resolve --parsable --terminate _ipp._tcp | tee /dev/stderr |
    grep --quiet '^=;eth0;IPv4;.*;h1.local;10.77.0.1;6310;'
}

cut_seen() {
  lab cut 1 2,3 || return 1
  ! reaches 1 10.77.0.2 0.3 && ! reaches 3 fd77::1 0.3 && reaches 2 10.77.0.3 || return 1
  lab heal && eventually reaches 1 10.77.0.2
}

# Packets from 2 to 1 are dropped, so 1 gets what it asks for from nobody, and 2 sees that 1 asks.
one_way_cut_seen() {
  lab cut 2 1 --one-way || return 1
  local before after
  before=$(received_echoes 2)
  ! reaches 1 10.77.0.2 0.3 || return 1
  after=$(received_echoes 2)
  lab heal
  is "after == before + 1" before="$before" after="$after"
}
# The counter InEchos.
received_echoes() { on "$1" cat /proc/net/snmp | awk '$1 == "Icmp:" && $2 ~ /^[0-9]/ { print $10 }'; }

# ping -U: from the program's clock. Without it ping uses the stamp that the kernel gives before packets wait.
round_trip_ms() { on 1 ping -U -c 3 -i 0.2 -W 5 -q 10.77.0.2 | tee /dev/stderr | sed -n 's|^rtt[^=]*= \([0-9.]*\)/.*|\1|p'; }

delay_seen() {
  local with without
  lab link 2 delay=120 || return 1
  with=$(round_trip_ms)
  lab link 2 delay=0 || return 1
  without=$(round_trip_ms)
  is "with >= 120 && with < 600 && without < 120" with="$with" without="$without"
}

loss_seen() {
  lab link 2 loss=100 || return 1
  ! reaches 1 10.77.0.2 0.3 && ! reaches 1 fd77::2 0.3 || return 1
  lab link 2 loss=50 burst=3 || return 1
  local received
  received=$(on 1 ping -c 200 -i 0.005 -W 1 -q 10.77.0.2 | sed -n 's/.* \([0-9]*\) received.*/\1/p')
  lab link 2 loss=0 burst=1 || return 1
  # Mean 100; losses come in runs of 3, so the deviation is about 16. The bounds are 4 of those away.
  is "received > 36 && received < 164" received="$received"
}

rate_seen() {
  local up down
  lab link 2 rate=20mbit || return 1
  on 2 iperf3 --server --daemon --logfile /dev/null || return 1
  eventually on 1 iperf3 --client 10.77.0.2 --time 1 >/dev/null || return 1
  up=$(megabits) down=$(megabits --reverse)
  lab link 2 rate=0 || return 1
  is "up > 5 && up < 21 && down > 5 && down < 21" up="$up" down="$down"
}
megabits() {
  on 1 iperf3 --client 10.77.0.2 --time 2 --omit 1 --format m "$@" | awk '$NF == "receiver" { print $(NF - 2) }'
}

sleep_seen() {
  local pid
  background 3 dd if=/dev/zero of=/dev/null bs=1k status=none
  eventually finds_program 3 dd || return 1
  pid=$(program_of 3 dd)
  lab sleep 3 || return 1
  ! reaches 1 10.77.0.3 0.3 || { echo "a sleeping host answered"; return 1; }
  stands_still "$pid" || { echo "a program of a sleeping host went on"; return 1; }
  fails_with 1 on 3 true || return 1
  lab wake 3 && eventually reaches 1 10.77.0.3 || return 1
  eventually goes_on "$pid" && kill "$pid"
}
processor_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
stands_still() { ! goes_on "$1"; }
goes_on() {
  local before
  before=$(processor_ticks "$1")
  sleep 0.2
  [ "$(processor_ticks "$1")" -gt "$before" ]
}

services_stop_and_start() {
  lab avahi 2 kill && ! service_seen 2 && lab avahi 2 start && eventually service_seen 2 || return 1
  lab avahi 2 stop && lab bus 2 stop || return 1
  fails_with 1 lab avahi 2 start || return 1
  lab bus 2 start && lab avahi 2 start && eventually service_seen 2
}

# What the share cannot be moved by: other load can only take from it.
cpu_share_holds() {
  local used
  lab cpu 1 0.2 || return 1
  used=$(busy_seconds)
  lab cpu 1 none || return 1
  # 2 s at 0.2, and one period of 20 ms that may begin early.
  is "used <= 0.45 && used > 0.01" used="$used" || return 1
  is "free > 1.2 * used" free="$(busy_seconds)" used="$used"
}
busy_seconds() {
  on 1 bash -c 'TIMEFORMAT="%U %S"; time timeout 2 dd if=/dev/zero of=/dev/null bs=1k status=none' 2>&1 |
    awk 'END { print $1 + $2 }'
}

# tail keeps all of a line that does not end.
memory_limit_kills() {
  local hungry='head --bytes=200M /dev/zero | tail --lines=1 >/dev/null'
  on 1 bash -o pipefail -c "$hungry" || { echo "not even without a limit"; return 1; }
  lab mem 1 64M || return 1
  fails_with 137 on 1 bash -o pipefail -c "$hungry" || return 1
  on 2 bash -o pipefail -c "$hungry" && on 1 true && lab mem 1 none && on 1 bash -o pipefail -c "$hungry"
}

down_is_complete() {
  background 2 setsid sleep 600
  background 3 env --ignore-environment sleep 601
  eventually finds_program 2 sleep || return 1
  lab sleep 3 || return 1
  lab down || return 1
  nothing_is_left && lab down
}

nothing_is_left() {
  local state controller left=''
  state=$(state_of_test_lab)
  if [ -e "$state" ]; then left+=" $state"; fi
  if grep --quiet --fixed-strings "hearth-lab-$TEST_LAB" /proc/*/mountinfo 2>/dev/null; then left+=" mounts"; fi
  left+=$(marked_processes "HEARTH_LAB=$state")
  if pgrep --full --exact 'sleep 601' >/dev/null; then left+=" a process without environment"; fi
  find_control_groups
  for controller in $CONTROLLERS; do
    if [ -e "${GROUP_ROOT[$controller]:-/none}/hearth-lab-$TEST_LAB" ]; then left+=" $controller group"; fi
  done
  [ -z "$left" ] || { echo "left:$left"; return 1; }
}

# At several moments, from before the first host to the last one.
killed_up_is_cleaned() {
  local pause pid
  for pause in 0.15 0.4 0.7 1.0; do
    "$PARTS/../household" up 3 --name "$TEST_LAB" >/dev/null 2>&1 &
    pid=$!
    sleep $pause
    kill -KILL $pid 2>/dev/null
    lab down && nothing_is_left || return 1
  done
  lab up 1 && lab down && nothing_is_left
}
