#!/usr/bin/env bash
# Part of scripts/household: what happens between hosts: rates, delays, losses, cuts.

# Rates are a token bucket at both ends of the host's cable. The bucket holds BURST_MS of the rate, so that a slow
# link does not begin with a second of full speed; the queue before it holds QUEUE_MS, then it drops, as switches do.
# A queue shorter than LEAST_QUEUE_BYTES would drop parts of every second super-packet (64 KiB) of the sender's stack.
readonly BURST_MS=2 QUEUE_MS=20
readonly LEAST_BURST_BYTES=8192 LEAST_QUEUE_BYTES=$((4 * 65536))

profile_settings() {
  case $1 in
    lan) echo "rate=1gbit delay=0.2 jitter=0 loss=0 burst=1" ;;
    wifi) echo "rate=200mbit delay=2 jitter=4 loss=0.2 burst=3" ;;
    bare) echo "rate=0 delay=0 jitter=0 loss=0 burst=1" ;;
    *) misuse "there is no profile '$1'; there are lan, wifi and bare" ;;
  esac
}

check_setting() {
  local form='^[0-9]{1,5}(\.[0-9]{1,4})?$' most=60000
  case $1 in
    rate=*) form='^(0|none|[0-9]{1,4}(\.[0-9]{1,3})?[kmg]bit)$' ;;
    loss=*) most=100 ;;
    delay=* | jitter=* | burst=*) ;;
    *) misuse "link takes a profile, rate=, delay=, jitter=, loss= and burst=, not '$1'" ;;
  esac
  [[ ${1#*=} =~ $form ]] || misuse "'$1': a rate is such as 200mbit, everything else a number"
  case $1 in rate=*) return 0 ;; esac
  awk -v value="${1#*=}" -v most=$most 'BEGIN { exit !(value <= most) }' || misuse "'$1' is over the limit of $most"
}

link_host() {
  local host=$1 setting rate=0 delay=0 jitter=0 loss=0 burst=1 settings
  shift
  settings=$(cat "$STATE/$host/link" 2>/dev/null || true)
  for setting in "$@"; do
    if [[ $setting == *=* ]]; then check_setting "$setting"; else setting=$(profile_settings "$setting") || exit; fi
    settings+=" $setting"
  done
  for setting in $settings; do local "$setting"; done
  if [ "$rate" = none ]; then rate=0; fi
  if awk -v burst="$burst" 'BEGIN { exit !(burst < 1) }'; then burst=1; fi
  shape_rate "$host" "$rate"
  shape_segments "$host" "$loss"
  delay_packets "$host" "$delay" "$jitter" "$loss" "$burst"
  echo "rate=$rate delay=$delay jitter=$jitter loss=$loss burst=$burst" >"$STATE/$host/link"
}

# token_bucket RATE: the words of tc for it.
token_bucket() {
  awk -v rate="$1" -v burst_ms=$BURST_MS -v least=$LEAST_BURST_BYTES \
    -v queue_ms=$QUEUE_MS -v least_queue=$LEAST_QUEUE_BYTES 'BEGIN {
    unit = substr(rate, length(rate) - 3, 1)
    bits = rate * (unit == "g" ? 1e9 : unit == "m" ? 1e6 : 1e3)
    burst = bits / 8 * burst_ms / 1000
    if (burst < least) burst = least
    queue = bits / 8 * queue_ms / 1000
    if (queue < least_queue) queue = least_queue
    printf "tbf rate %dbit burst %d limit %d", bits, burst, queue
  }'
}

shape_rate() {
  local host=$1 rate=$2 bucket
  if [ "$rate" = 0 ]; then
    in_network "$host" tc qdisc del dev eth0 root 2>/dev/null || true
    in_switch tc qdisc del dev "h$host" root 2>/dev/null || true
    return
  fi
  read -ra bucket < <(token_bucket "$rate"; echo)
  in_network "$host" tc qdisc replace dev eth0 root "${bucket[@]}"
  in_switch tc qdisc replace dev "h$host" root "${bucket[@]}"
}

# With losses, the switch cuts super-packets of up to 64 KiB into packets as they are on a cable, so that one loss is
# the loss of one.
shape_segments() {
  local segments=1
  if awk -v loss="$2" 'BEGIN { exit !(loss == 0) }'; then segments=65535; fi
  in_switch ip link set dev "h$1" gso_max_segs $segments
}

build_packet_delay() {
  local program=$STATE/packet-delay log=$STATE/compiler.log
  [ ! -x "$program" ] || return 0
  HEARTH_LAB=$STATE "$(compiler)" -O2 -o "$program.new" "$PARTS/packet-delay.c" 2>"$log" ||
    fail "cannot compile packet-delay.c: $(head -n 1 "$log")"
  mv "$program.new" "$program"
}

delay_packets() {
  local host=$1 tool table
  shift
  end_process "$(cat "$STATE/$host/delay.pid" 2>/dev/null || echo none)" "$host" KILL
  rm --force "$STATE/$host/delay.pid"
  local queue=(PREROUTING --in-interface eth0 --jump NFQUEUE --queue-num 1 --queue-bypass)
  table=(--wait --table mangle)
  if awk -v a="$1" -v b="$2" -v c="$3" 'BEGIN { exit !(a + b + c == 0) }'; then
    [ -e "$STATE/$host/queued" ] || return 0
    for tool in iptables ip6tables; do in_network "$host" $tool "${table[@]}" --delete "${queue[@]}"; done
    rm "$STATE/$host/queued"
    return
  fi
  build_packet_delay
  # Above programs in priority: a wire does not slow down because processors are busy.
  in_network "$host" nice --adjustment=-15 "$STATE/packet-delay" 1 "$STATE/$host/delay.pid" "$@" ||
    fail "packet-delay does not start on host $host"
  [ ! -e "$STATE/$host/queued" ] || return 0
  for tool in iptables ip6tables; do in_network "$host" $tool "${table[@]}" --append "${queue[@]}"; done
  touch "$STATE/$host/queued"
}

# ports LIST: the switch's ports of hosts as an nftables set.
ports() {
  local numbers
  numbers=$(expand_hosts "$1") || exit
  echo "{ $(for number in $numbers; do echo "h$number"; done | sort --unique | paste --serial --delimiters ,) }"
}

# At the switch, so ARP, IPv4, IPv6 and multicast are cut alike.
cut_hosts() {
  local from to one_way=$3
  from=$(ports "$1") || exit
  to=$(ports "$2") || exit
  {
    echo "add table bridge lab"
    echo "add chain bridge lab forward { type filter hook forward priority 0; }"
    echo "add rule bridge lab forward iifname $from oifname $to drop"
    if ! $one_way; then echo "add rule bridge lab forward iifname $to oifname $from drop"; fi
  } | in_switch nft --file -
  if $one_way; then echo "$1 -> $2"; else echo "$1 <-> $2"; fi >>"$STATE/cuts"
}

heal_hosts() {
  [ -e "$STATE/cuts" ] || return 0
  in_switch nft delete table bridge lab
  rm "$STATE/cuts"
}
