#!/usr/bin/env bash
# Part of scripts/household: up, down, status, sleep and wake.

# start_time PID: with the number, it names one process of this boot.
start_time() {
  local text
  { read -r text <"/proc/$1/stat"; } 2>/dev/null || return 1
  echo "${text##*) }" | cut --delimiter ' ' --fields 20
}

# Takes the lab's name. From here on, whatever ends this process unfinished also removes what it made; after a
# SIGKILL, `down` does.
claim_state() {
  # shellcheck disable=SC2153  # names.bash sets it
  mkdir --mode 700 "$STATE" 2>/dev/null ||
    fail "$STATE is there already; first: scripts/household down --name $LAB (or choose another --name)"
  echo "$$ $(start_time $$)" >"$STATE/maker"
  trap 'if [ ! -e "$STATE/ready" ]; then clear_lab; fi' EXIT
  trap 'exit 130' INT TERM HUP
}

finish_state() {
  echo "$1" >"$STATE/hosts"
  touch "$STATE/ready"
}

lab_up() {
  local count=$1 profile=$2 host
  check_count "$count"
  count=$((10#$count))
  profile_settings "$profile" >/dev/null
  need_machine
  claim_state
  # A mount namespace can be pinned only below a mount that does not propagate.
  mount --bind "$STATE" "$STATE"
  mount --make-private "$STATE"
  make_lab_groups
  for host in $(seq "$count"); do make_host "$host"; done
  make_switch "$count"
  for host in $(seq "$count"); do
    configure_network "$host"
    control_bus "$host" start
    control_avahi "$host" start
    link_host "$host" "$profile"
  done
  finish_state "$count"
  say "lab '$LAB': $count hosts, profile $profile; next: scripts/household shell 1 --name $LAB"
}

# marked_processes NAME=VALUE: those that were started with it in their environment (zombies have none).
marked_processes() {
  { grep --files-with-matches --null-data --line-regexp --fixed-strings "$1" /proc/[0-9]*/environ || true; } \
    2>/dev/null | cut --delimiter / --fields 3
}

# Processes of the lab: in its networks, in its groups, or marked by their environment (steps of `up` that are not
# in a network yet; everything of a loopback lab).
lab_processes() {
  { networked_processes; marked_processes "HEARTH_LAB=$STATE"; grouped_processes; } |
    sort --unique --numeric-sort | while read -r pid; do if is_alive "$pid"; then echo "$pid"; fi; done
}

# Processes and files come and go while these look, and a lab may be half made: what is not there is no failure.
networked_processes() {
  local pins
  pins=$(stat --format %d:%i "$STATE/switch" "$STATE"/*/net 2>/dev/null || true)
  { stat --dereference --format '%d:%i %n' /proc/[0-9]*/ns/net || true; } 2>/dev/null | awk -v pins="${pins//$'\n'/ }" '
    BEGIN { count = split(pins, list, " "); for (i = 1; i <= count; i++) ours[list[i]] = 1 }
    $1 in ours { split($2, part, "/"); print part[3] }'
}

grouped_processes() {
  local controller root
  find_control_groups
  for controller in "${!GROUP_ROOT[@]}"; do
    root=${GROUP_ROOT[$controller]}/$GROUP
    if [ -d "$root" ]; then find "$root" -name cgroup.procs -exec cat {} + 2>/dev/null || true; fi
  done
}

# First asks, then, after a second, ends for good; what is born meanwhile is met in the next round.
end_lab_processes() {
  local try signal=TERM pids
  for try in $(seq 150); do
    mapfile -t pids < <(lab_processes)
    [ ${#pids[@]} -gt 0 ] || return 0
    if [ "$try" -gt 25 ]; then signal=KILL; fi
    if [ "$try" = 1 ] || [ $signal = KILL ]; then kill -$signal "${pids[@]}" 2>/dev/null || true; fi
    sleep 0.02
  done
  fail "processes of lab '$LAB' do not end: ${pids[*]}"
}

wake_everything() {
  local directory
  if is_loopback; then lab_processes | xargs --no-run-if-empty kill -CONT 2>/dev/null || true; fi
  find_control_groups
  if [ -n "${GROUP_ROOT[freezer]:-}" ]; then
    for directory in "${GROUP_ROOT[freezer]}/$GROUP"/*/; do
      if [ -d "$directory" ]; then freeze_group "${directory%/}" no; fi
    done
  fi
}

# Ends an `up` that is still at work, at once: it would go on making what we remove.
end_maker() {
  local pid started
  { read -r pid started <"$STATE/maker"; } 2>/dev/null || return 0
  if [ "$pid" != $$ ] && [ ! -e "$STATE/ready" ] && [ "$(start_time "$pid")" = "$started" ]; then
    kill -KILL "$pid" 2>/dev/null || true
  fi
}

remove_mounts() {
  local place
  awk -v state="$STATE" 'index($5, state "/") == 1 || $5 == state { print $5 }' /proc/self/mountinfo | tac |
    while read -r place; do umount "$place" 2>/dev/null || umount --lazy "$place"; done
}

clear_lab() {
  wake_everything
  end_lab_processes
  remove_mounts
  remove_groups
  # Never into something that is still mounted there.
  if [ -e "$STATE" ]; then rm --recursive --force --one-file-system "$STATE"; fi
}

lab_down() {
  if [ -e "$STATE" ]; then
    state_is_ours || fail "$STATE is not a directory of this user; run down as the user who ran up"
    end_maker
  fi
  clear_lab
}

host_sleep() {
  local host=$1
  [ ! -e "$STATE/$host/asleep" ] || return 0
  if is_loopback; then
    loopback_processes "$host" | xargs --no-run-if-empty kill -STOP
  else
    freeze_group "$(freezer_group "$host")" yes
    # The kernel would go on answering for the frozen processes.
    in_switch ip link set "h$host" down
  fi
  touch "$STATE/$host/asleep"
}

host_wake() {
  local host=$1
  [ -e "$STATE/$host/asleep" ] || return 0
  if is_loopback; then
    loopback_processes "$host" | xargs --no-run-if-empty kill -CONT
  else
    in_switch ip link set "h$host" up
    freeze_group "$(freezer_group "$host")" no
  fi
  rm "$STATE/$host/asleep"
}

freezer_group() {
  local path
  find_control_groups
  path=$(control "$1" freezer "$(control_file freezer)") || exit
  echo "${path%/*}"
}

lab_status() {
  local host state
  if is_loopback; then say "lab '$LAB' is a loopback lab, state in $STATE"; else say "lab '$LAB', state in $STATE"; fi
  for host in $(host_numbers); do
    state=awake
    if [ -e "$STATE/$host/asleep" ]; then state=asleep; fi
    if is_loopback; then
      echo "h$host $state $(loopback_environment "$host" | head -n 1)" \
        "processes=$(loopback_processes "$host" | wc --lines)"
    else
      echo "h$host $state 10.77.0.$host $(cat "$STATE/$host/link") $(host_limits "$host") $(host_services "$host")"
    fi
  done
  if [ -e "$STATE/cuts" ]; then sed 's/^/cut /' "$STATE/cuts"; fi
}

host_limits() {
  local memory quota processes
  find_control_groups
  memory=${GROUP_ROOT[memory]:-}/$GROUP/$1
  quota=$(host_quota "$1")
  case $quota in -1) quota=none ;; *) quota=$(awk -v q="$quota" -v p="$CPU_PERIOD_US" 'BEGIN { print q / p }') ;; esac
  processes=$(host_groups "$1" | head -n 1 | xargs --replace cat {}/cgroup.procs | wc --lines)
  echo "cpu=$quota mem=$(memory_limit "$memory") processes=$processes"
}

# Version 1 writes "none" as the largest number of whole pages.
memory_limit() {
  local limit
  limit=$(cat "$1/memory.max" "$1/memory.limit_in_bytes" 2>/dev/null | head -n 1)
  case ${limit:-max} in max) echo none ;; ???????????????????*) echo none ;; *) echo "$limit" ;; esac
}

host_services() {
  local bus=stopped avahi=stopped
  if runs_on "$(bus_process "$1")" "$1"; then bus=running; fi
  if runs_on "$(avahi_process "$1")" "$1"; then avahi=running; fi
  echo "bus=$bus avahi=$avahi"
}
