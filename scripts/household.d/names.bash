#!/usr/bin/env bash
# Part of scripts/household: messages, the lab's name and places, lists of hosts.

# Limits of what is asked for: hosts of one lab (more have not been tried) and letters of its name.
readonly MOST_HOSTS=32
readonly MOST_NAME_LENGTH=16

# is_number_in TEXT LEAST MOST: a whole number in that range; not longer than three digits, so that it fits.
is_number_in() { [[ $1 =~ ^[0-9]{1,3}$ ]] && [ "$((10#$1))" -ge "$2" ] && [ "$((10#$1))" -le "$3" ]; }

check_count() {
  is_number_in "$1" 1 $MOST_HOSTS || misuse "a lab has 1 to $MOST_HOSTS hosts, not '$1'"
}

say() { printf 'household: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
misuse() { say "$*"; exit 64; }
# This machine does not allow it. The code is the one that test runners take for "skipped".
cannot() { say "$*"; exit 77; }

# choose_lab NAME: sets LAB, STATE (its directory) and GROUP (its control groups).
choose_lab() {
  LAB=$1
  [[ $LAB =~ ^[a-z][a-z0-9]*$ && ${#LAB} -le $MOST_NAME_LENGTH ]] ||
    misuse "--name takes 1 to $MOST_NAME_LENGTH small letters and digits, a letter first, not '$LAB'"
  local base=${XDG_RUNTIME_DIR:-/tmp}
  [[ $base == /* && $base != *[[:space:]\\]* ]] ||
    misuse "XDG_RUNTIME_DIR must be an absolute path without spaces, not '$base'"
  [ -d "$base" ] || misuse "XDG_RUNTIME_DIR names '$base', which is not a directory; unset it to use /tmp"
  # /proc and the tables of mounts show real paths.
  base=$(cd "$base" && pwd -P)
  # A host sees its own XDG_RUNTIME_DIR, so its labs would be other ones; and down would end its own shell.
  [ -z "${HEARTH_LAB_HOST:-}" ] || fail "this is host $HEARTH_LAB_HOST of a lab; leave it first (exit)"
  STATE=${base%/}/hearth-lab-$LAB
  # shellcheck disable=SC2034  # read by the other parts
  GROUP=hearth-lab-$LAB
}

# In /tmp anybody may make a directory of our name: what we use must be our own.
state_is_ours() { [ -d "$STATE" ] && [ ! -L "$STATE" ] && [ -O "$STATE" ]; }

need_lab() {
  if [ ! -e "$STATE" ]; then fail "there is no lab '$LAB'; make it with: scripts/household up N --name $LAB"; fi
  state_is_ours || fail "$STATE is not a directory of this user; run as the user who made it, or choose another --name"
  [ -e "$STATE/ready" ] || fail "lab '$LAB' is not complete (still going up, or up was ended); see scripts/household down"
}

is_loopback() { [ -e "$STATE/loopback" ]; }

need_namespaces() {
  need_lab
  if is_loopback; then
    cannot "$1 needs namespaces, and lab '$LAB' is a loopback one; as root: scripts/household up N --name OTHER"
  fi
}

host_numbers() { seq "$(cat "$STATE/hosts" 2>/dev/null || echo 0)"; }

# expand_hosts LIST: the numbers that "2", "1,3" or "all" stands for, one a line.
expand_hosts() {
  local list=$1 most number
  most=$(cat "$STATE/hosts")
  if [ "$list" = all ]; then seq "$most"; return; fi
  [[ $list =~ ^[0-9]+(,[0-9]+)*$ ]] || misuse "'$list' is not a host: give a number, numbers with commas, or all"
  for number in ${list//,/ }; do
    is_number_in "$number" 1 "$most" || misuse "there is no host $number in lab '$LAB'; it has 1...$most"
    echo "$((10#$number))"
  done
}

# one_host WORD: the number of the single host that WORD names.
one_host() {
  local numbers
  numbers=$(expand_hosts "$1") || exit
  [[ $numbers != *$'\n'* ]] || misuse "this takes one host, not '$1'"
  echo "$numbers"
}

# for_hosts ACTION LIST WORD...: calls ACTION NUMBER WORD... for each host.
for_hosts() {
  local action=$1 numbers number
  numbers=$(expand_hosts "$2") || exit
  shift 2
  for number in $numbers; do "$action" "$number" "$@"; done
}
