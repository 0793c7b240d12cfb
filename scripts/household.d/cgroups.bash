#!/usr/bin/env bash
# Part of scripts/household: control groups, version 1 and 2, also mixed (each controller where it is mounted).
#
# A host's processes are in the group $GROUP/I of every hierarchy that has one of the three controllers. The groups
# lie at the top of the hierarchies, beside other services. Version 2 allows no processes in a group that hands
# controllers on, so a group of the caller could not hold them.

readonly CONTROLLERS="cpu memory freezer"
declare -A GROUP_ROOT=() GROUP_VERSION=()
declare -A CONTROLLER_USE=([cpu]="cpu will not work" [memory]="mem will not work" [freezer]="sleep will not work")

# Period of CPU limits: short, so that a host with a small share still answers pings in time. The kernel allows no
# quota below 1 ms, hence no share below 0.05.
readonly CPU_PERIOD_US=20000

# Fills GROUP_ROOT and GROUP_VERSION from the table of mounts; a controller that is nowhere stays out.
find_control_groups() {
  [ ${#GROUP_ROOT[@]} -eq 0 ] || return 0
  local mount type options controller unified=''
  while read -r mount type options; do
    if [ "$type" = cgroup2 ]; then unified=$mount; continue; fi
    for controller in $CONTROLLERS; do
      if [[ ,$options, == *,$controller,* ]]; then GROUP_ROOT[$controller]=$mount GROUP_VERSION[$controller]=1; fi
    done
  done < <(awk '{ for (i = 7; $i != "-"; i++); if ($(i+1) ~ /^cgroup2?$/) print $5, $(i+1), $(i+3) }' /proc/self/mountinfo)
  [ -n "$unified" ] || return 0
  for controller in $CONTROLLERS; do
    # Version 2's freezer is part of every group and not listed.
    if [ -z "${GROUP_ROOT[$controller]:-}" ] &&
      { [ "$controller" = freezer ] || grep --quiet --word-regexp "$controller" "$unified/cgroup.controllers"; }; then
      GROUP_ROOT[$controller]=$unified GROUP_VERSION[$controller]=2
    fi
  done
}

# hand_on DIRECTORY: lets the children of a version 2 group use cpu and memory, as far as the group has them.
hand_on() {
  local controller
  for controller in cpu memory; do
    [ "${GROUP_VERSION[$controller]:-}" = 2 ] || continue
    echo "+$controller" >"$1/cgroup.subtree_control" 2>/dev/null || true
  done
}

# The file that proves that a group has the controller.
control_file() {
  case "$1:${GROUP_VERSION[$1]:-}" in
    cpu:1) echo cpu.cfs_quota_us ;;
    cpu:2) echo cpu.max ;;
    memory:1) echo memory.limit_in_bytes ;;
    memory:2) echo memory.max ;;
    freezer:1) echo freezer.state ;;
    freezer:2) echo cgroup.freeze ;;
    *) echo none ;;
  esac
}

group_can_be_made() {
  local controller=$1 root=${GROUP_ROOT[$1]:-} probe works=false
  [ -n "$root" ] || return 1
  probe=$root/hearth-lab-probe-$$
  if [ "${GROUP_VERSION[$controller]}" = 2 ]; then hand_on "$root"; fi
  mkdir "$probe" || return 1
  if [ -w "$probe/$(control_file "$controller")" ]; then works=true; fi
  rmdir "$probe"
  $works
}

make_lab_groups() {
  local controller root
  find_control_groups
  for controller in $CONTROLLERS; do
    root=${GROUP_ROOT[$controller]:-}
    [ -n "$root" ] || continue
    mkdir --parents "$root/$GROUP" 2>/dev/null || { say "cannot make groups in $root: ${CONTROLLER_USE[$controller]}"; continue; }
    if [ "${GROUP_VERSION[$controller]}" = 2 ]; then hand_on "$root"; hand_on "$root/$GROUP"; fi
  done
}

make_host_groups() {
  local controller directory
  for controller in $CONTROLLERS; do
    directory=${GROUP_ROOT[$controller]:-}/$GROUP
    if [ -d "$directory" ]; then mkdir --parents "$directory/$1"; fi
  done
}

# host_groups I: the host's group directories, one a line, none twice.
host_groups() {
  local controller
  find_control_groups
  for controller in $CONTROLLERS; do
    if [ -d "${GROUP_ROOT[$controller]:-}/$GROUP/$1" ]; then echo "${GROUP_ROOT[$controller]}/$GROUP/$1"; fi
  done | sort --unique
}

# Moves this shell, and so what it runs from now on, into the host's groups.
enter_groups() {
  local directory
  for directory in $(host_groups "$1"); do
    echo "$BASHPID" >"$directory/cgroup.procs" || fail "cannot enter $directory (a real-time process may not)"
  done
  taskset --cpu-list --pid "$(host_processors "$1")" "$BASHPID" >/dev/null
}

# host_quota I: microseconds in a period of $CPU_PERIOD_US, -1 for no limit.
host_quota() {
  local directory quota
  find_control_groups
  directory=${GROUP_ROOT[cpu]:-}/$GROUP/$1
  if [ -e "$directory/cpu.max" ]; then read -r quota _ <"$directory/cpu.max"; else
    quota=$(cat "$directory/cpu.cfs_quota_us" 2>/dev/null || echo -1)
  fi
  echo "${quota/max/-1}"
}

# host_processors I: the processors that a host may use, as a list for taskset. One that may use no more than one keeps to one:
# the kernel does not see processes that wait for their next period as load, so that it may leave five of eight hosts on one of
# two processors. Hosts take turns at the processors.
host_processors() {
  local quota range all
  quota=$(host_quota "$1")
  range=$(awk '$1 == "Cpus_allowed_list:" { print $2 }' /proc/self/status)
  if [ "$quota" = -1 ] || [ "$quota" -gt $CPU_PERIOD_US ]; then echo "$range"; return; fi
  mapfile -t all < <(tr ',' '\n' <<<"$range" | awk -F- '{ for (i = $1; i <= $NF; i++) print i }')
  echo "${all[$((($1 - 1) % ${#all[@]}))]}"
}

# settle I: moves what runs on a host to the processors that it may use now; threads that begin later go with it.
settle() {
  local group processors process
  processors=$(host_processors "$1")
  group=$(host_groups "$1" | head -n 1)
  while read -r process; do
    # A process that has just ended is no failure.
    taskset --all-tasks --cpu-list --pid "$processors" "$process" >/dev/null 2>&1 || true
  done <"$group/cgroup.procs"
}

# control I CONTROLLER FILE: the path of a host's control file; ends with 77 when there is none.
control() {
  find_control_groups
  local path=${GROUP_ROOT[$2]:-}/$GROUP/$1/$3
  [ -e "$path" ] || cannot "host $1 has no $2 control group here; see scripts/household check"
  echo "$path"
}

# set_control I CONTROLLER FILE VALUE
set_control() {
  local path
  path=$(control "$1" "$2" "$3") || exit
  echo "$4" 2>/dev/null >"$path" || fail "the kernel refused '$4' for $path"
}

limit_cpu() {
  local host=$1 share=$2 quota
  find_control_groups
  if [ "$share" = none ]; then quota=-1; else
    [[ $share =~ ^[0-9]{1,3}(\.[0-9]{1,3})?$ ]] || misuse "cpu takes a number of processors such as 0.5, or none, not '$share'"
    quota=$(awk -v share="$share" -v period=$CPU_PERIOD_US 'BEGIN { printf "%d", share * period }')
    [ "$quota" -ge 1000 ] || misuse "the kernel allows no share below 0.05, so not '$share'"
  fi
  if [ "${GROUP_VERSION[cpu]:-}" = 2 ]; then
    if [ "$quota" = -1 ]; then quota=max; fi
    set_control "$host" cpu cpu.max "$quota $CPU_PERIOD_US"
  else
    set_control "$host" cpu cpu.cfs_period_us $CPU_PERIOD_US
    set_control "$host" cpu cpu.cfs_quota_us "$quota"
  fi
  settle "$host"
}

# Swap would hide the limit, so it is limited with the memory where the kernel counts it.
limit_memory() {
  local host=$1 bytes=$2 none=max swap
  find_control_groups
  [[ $bytes =~ ^([0-9]{1,15}[KMG]?|none)$ ]] || misuse "mem takes bytes such as 300M, or none, not '$bytes'"
  if [ "${GROUP_VERSION[memory]:-}" = 2 ]; then
    if [ "$bytes" = none ]; then bytes=max; fi
    set_control "$host" memory memory.max "$bytes"
    swap=$(control "$host" memory memory.max) || exit
    swap=${swap%/*}/memory.swap.max
    if [ -e "$swap" ]; then if [ "$bytes" = max ]; then echo max >"$swap"; else echo 0 >"$swap"; fi; fi
    return
  fi
  none=-1
  if [ "$bytes" = none ]; then bytes=$none; fi
  swap=$(control "$host" memory memory.limit_in_bytes) || exit
  swap=${swap%/*}/memory.memsw.limit_in_bytes
  if [ -e "$swap" ]; then echo $none >"$swap"; fi
  set_control "$host" memory memory.limit_in_bytes "$bytes"
  if [ -e "$swap" ]; then echo "$bytes" >"$swap"; fi
}

# freeze_group DIRECTORY yes|no: stops or continues all processes of a group, and waits until it has happened.
freeze_group() {
  local directory=$1 value=THAWED flag=0 try
  if [ "$2" = yes ]; then value=FROZEN flag=1; fi
  for try in $(seq 100); do
    if [ -e "$directory/cgroup.freeze" ]; then
      echo $flag >"$directory/cgroup.freeze"
      ! grep --quiet --line-regexp "frozen $flag" "$directory/cgroup.events" || return 0
    elif [ -e "$directory/freezer.state" ]; then
      echo $value >"$directory/freezer.state"
      [ "$(cat "$directory/freezer.state")" != $value ] || return 0
    else
      return 1
    fi
    sleep 0.02
  done
  fail "$directory did not become $value within 2 s (tried $try times)"
}

# Removes the lab's groups, whichever hosts it had; the kernel needs a moment after the last process.
remove_groups() {
  local controller root try
  find_control_groups
  for controller in $CONTROLLERS; do
    root=${GROUP_ROOT[$controller]:-}/$GROUP
    for try in $(seq 100); do
      [ -d "$root" ] || break
      find "$root" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
      ! rmdir "$root" 2>/dev/null || break
      [ "$try" -lt 100 ] || say "could not remove $root"
      sleep 0.02
    done
  done
}
