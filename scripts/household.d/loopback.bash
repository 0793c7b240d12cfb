#!/usr/bin/env bash
# Part of scripts/household: the lab without root: N state directories and N ports on 127.0.0.1.

# Ports of a loopback lab: a block for each lab of this user, below the ports that Linux gives to clients.
readonly FIRST_PORT=23700 PORT_BLOCK=64 MOST_BLOCKS=32

# The first block that no other loopback lab beside this one has.
free_port_block() {
  local block first
  for block in $(seq 0 $((MOST_BLOCKS - 1))); do
    first=$((FIRST_PORT + block * PORT_BLOCK))
    if ! grep --quiet --line-regexp "$first" "${STATE%/*}"/hearth-lab-*/loopback 2>/dev/null; then
      echo $first
      return
    fi
  done
  fail "there are $MOST_BLOCKS loopback labs already; end one with: scripts/household down --name LAB"
}

loopback_up() {
  local count=$1 host first
  check_count "$count"
  count=$((10#$count))
  first=$(free_port_block) || exit
  claim_state
  echo "$first" >"$STATE/loopback"
  for host in $(seq "$count"); do make_host_directories "$host"; done
  finish_state "$count"
  say "lab '$LAB': $count hosts on 127.0.0.1, ports $((first + 1))...$((first + count)), state in $STATE"
}

loopback_environment() {
  local first host peers=''
  first=$(cat "$STATE/loopback")
  for host in $(host_numbers); do
    if [ "$host" != "$1" ]; then peers+=",127.0.0.1:$((first + host))"; fi
  done
  echo "HEARTH_PORT=$((first + $1))"
  echo "HEARTH_PEERS=${peers#,}"
}

# loopback_processes I: what exec started on the host and what came of it, known by its environment.
loopback_processes() {
  marked_processes "HEARTH_LAB=$STATE" | while read -r pid; do
    ! grep --quiet --null-data --line-regexp --fixed-strings "HEARTH_LAB_HOST=$1" "/proc/$pid/environ" 2>/dev/null ||
      echo "$pid"
  done
}
