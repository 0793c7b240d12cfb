#!/usr/bin/env bash
# Part of scripts/demo: the same training on a household that scripts/household plays on this machine.
#
# Needs of its caller: root, directory, hearth, devices, namespaces, churn, threads, json, request, say.
# shellcheck disable=SC2154  # they are set there

lab=demo$$
daemons=()
logs=$(mktemp -d)
# Seconds that a device may take to come up, and the household to be complete.
readonly PATIENCE=60

household() { "$root/scripts/household" --name "$lab" "$@"; }

# on I ARGUMENTS...: hearth on device I.
on() {
  local device=$1
  shift
  household exec "$device" "$hearth" "$@"
}

end_household() {
  household down >/dev/null 2>&1 || true
  rm -rf "$logs"
}
trap end_household EXIT

fail() {
  say "$*"
  for log in "$logs"/*.log; do [ -e "$log" ] && tail -n 5 "$log" >&2; done
  exit 1
}

# The value of a key of text in the last JSON object of a file.
text_value() { sed -n "\$s/.*\"$2\":\"\([^\"]*\)\".*/\1/p" "$1"; }

# await WHAT CMD...: until CMD succeeds.
await() {
  local what=$1 end=$((SECONDS + PATIENCE))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "$what took more than $PATIENCE s"
    sleep 0.3
  done
}

answers() { on "$1" peers --json >/dev/null 2>&1; }

# here N: whether N devices are here.
here() {
  local count
  count=$(on 1 peers --json 2>/dev/null | grep -o '"state":"alive"' | wc -l)
  [ "$count" -eq "$1" ]
}

train_alone() {
  local start=$SECONDS
  "$hearth" "${request[@]}" --alone --output "$directory/adapter" --json ${threads:+--threads "$threads"} \
    >"$logs/alone.json" || fail "training alone failed"
  seconds_alone=$((SECONDS - start))
}

start_device() {
  local each=${threads:-$(($(nproc) / devices))}
  [ "$each" -ge 1 ] || each=1
  # exec, so that the process behind $! is the daemon.
  (exec "$root/scripts/household" --name "$lab" exec "$1" "$hearth" up --threads "$each") >"$logs/device-$1.log" 2>&1 &
  daemons[$1]=$!
  await "device $1" answers "$1"
}

bring_household_up() {
  local device token address=()
  if $namespaces; then
    household up "$devices" >&2
  else
    household up "$devices" --loopback >&2
    address=(--address "127.0.0.1:$(household exec 1 printenv HEARTH_PORT)")
  fi
  on 1 household create --name device-1 >/dev/null
  start_device 1
  for device in $(seq 2 "$devices"); do
    token=$(on 1 invite --token)
    on "$device" join "$token" --name "device-$device" ${address[@]+"${address[@]}"} >/dev/null
    # The last one comes in the midst of the training.
    if ! $churn || [ "$device" -lt "$devices" ]; then start_device "$device"; fi
  done
  local present=$devices
  if $churn; then present=$((devices - 1)); fi
  await "the household" here "$present"
  say "$present devices are here"
  on 1 peers >&2
}

train_together() {
  local start=$SECONDS training
  on 1 "${request[@]}" --output "$directory/adapter-household" --json >"$logs/together.json" &
  training=$!
  if $churn; then come_and_go "$training"; fi
  wait "$training" || fail "training on the household failed"
  seconds_together=$((SECONDS - start))
}

# told TEXT TRAINING: whether the training has said so; ends the demo when it has ended without.
told() {
  grep -q "$1" "$logs/together.json" && return
  kill -0 "$2" 2>/dev/null || grep -q "$1" "$logs/together.json" || fail "the training ended before it said $1"
  return 1
}

# One device is killed in the midst of the training, and another one comes.
come_and_go() {
  await "the first step" told '"event":"progress"' "$1"
  say "device 2 is killed"
  kill -KILL "${daemons[2]}"
  await "the loss" told '"kind":"lost"' "$1"
  say "device $devices comes"
  start_device "$devices"
}

compare_adapters() {
  local alone together line
  alone=$(text_value "$logs/alone.json" adapter_digest)
  together=$(text_value "$logs/together.json" adapter_digest)
  if [ -z "$alone" ] || [ "$alone" != "$together" ]; then
    fail "the adapters differ: one device made $alone, the household $together"
  fi
  say "the household's adapter is that of one device, bit for bit: $together"
  if [ ${#json[@]} -gt 0 ]; then
    line=$(tail -n 1 "$logs/together.json")
    printf '{"adapter_digest_alone":"%s","devices":%s,"seconds":%s,"seconds_alone":%s,%s\n' "$alone" "$devices" \
      "$seconds_together" "$seconds_alone" "${line#\{}"
  else
    # Devices on one machine share its cores: this shows that it works, not that it is faster.
    echo "from start to end: $seconds_alone s on one device, $seconds_together s on $devices that share this machine"
    echo "adapter: $directory/adapter-household"
    echo "digest: $together"
    if $churn; then echo "device 2 was killed and device $devices came meanwhile"; fi
  fi
}
