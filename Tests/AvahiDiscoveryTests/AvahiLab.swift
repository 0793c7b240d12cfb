import AvahiDiscovery
import Foundation
import Glibc
import PeerDiscovery
import Testing

/// Two hosts, a and b, on one wire, each with a network namespace, a message bus and an Avahi daemon of its own.
///
/// Nothing of it is visible to the machine: its processes have a process namespace, whose first one is driven
/// through a pipe and ends with it, and all others with that one. The two buses are sockets in a temporary folder.
final class AvahiLab {
  enum Failure: Error, CustomStringConvertible {
    case noStart(log: String)
    case command(String, log: String)

    var description: String {
      switch self {
      case .noStart(let log): "the lab did not start: \(log)"
      case .command(let command, let log): "'\(command)' failed in the lab: \(log)"
      }
    }
  }

  private static let programs = [
    "bash", "unshare", "nsenter", "ip", "mount", "mkfifo", "dbus-daemon", "avahi-daemon", "avahi-publish",
    "avahi-browse",
  ]

  /// Whether such a lab can be made here.
  static let isPossible: Bool = {
    guard geteuid() == 0, programs.allSatisfy({ path(of: $0) != nil }), let unshare = path(of: "unshare")
    else { return false }
    let trial = Process()
    trial.executableURL = URL(filePath: unshare)
    trial.arguments = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    trial.standardError = FileHandle.nullDevice
    guard (try? trial.run()) != nil else { return false }
    trial.waitUntilExit()
    return trial.terminationStatus == 0
  }()
  static let requirement: Comment =
    "needs root, namespaces, iproute2, util-linux, dbus-daemon, avahi-daemon and avahi-utils"

  private let process = Process()
  private let commands = Pipe()
  private let answers = Pipe()
  private var unread: [UInt8] = []
  private let folder: URL

  init() throws {
    folder = FileManager.default.temporaryDirectory.appending(path: "hearth-avahi-\(UUID().uuidString)")
    // The bus and the daemon are other users in part of their lives.
    try FileManager.default.createDirectory(
      at: folder, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o755])
    process.executableURL = URL(filePath: Self.path(of: "unshare") ?? "unshare")
    process.arguments = [
      "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", Self.script, "lab",
      folder.path,
    ]
    process.standardInput = commands
    process.standardOutput = answers
    try process.run()
    guard readLine() == "ready" else { throw Failure.noStart(log: log) }
  }

  deinit {
    try? commands.fileHandleForWriting.close()
    process.waitUntilExit()
    try? FileManager.default.removeItem(at: folder)
  }

  /// Runs a command line of the lab's script on host a, or a program on one with `on a` or `on b`; its output.
  @discardableResult
  func run(_ command: String) throws -> [String] {
    try commands.fileHandleForWriting.write(contentsOf: Data((command + "\n").utf8))
    var lines: [String] = []
    while let line = readLine() {
      if line == "done 0" { return lines }
      if line.hasPrefix("done ") { break }
      lines.append(line)
    }
    throw Failure.command(command, log: log)
  }

  /// Makes host a's bus the system bus of this process, which must be one that nothing else runs in.
  func adoptBus() {
    setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=\(folder.path)/a.bus", 1)
    // A test that waits for ever ends here, and its lab with it.
    alarm(600)
  }

  /// The network namespace of host a.
  var networkNamespace: String { "/proc/\(process.processIdentifier)/ns/net" }

  private var log: String {
    (try? String(contentsOf: folder.appending(path: "log"), encoding: .utf8)) ?? "no log"
  }

  private func readLine() -> String? {
    while true {
      if let end = unread.firstIndex(of: UInt8(ascii: "\n")) {
        defer { unread.removeSubrange(...end) }
        return String(decoding: unread[..<end], as: UTF8.self)
      }
      let more = answers.fileHandleForReading.availableData
      if more.isEmpty { return nil }
      unread += more
    }
  }

  private static func path(of program: String) -> String? {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map { "\($0)/\(program)" }.first {
      access($0, X_OK) == 0
    }
  }

  private static let script = #"""
    set -u
    PATH=/usr/bin:/bin:/usr/sbin:/sbin
    dir=$1
    exec 2>>"$dir/log"
    mount -t tmpfs tmpfs /run && mkdir -p /run/avahi-daemon
    mkfifo "$dir/ready"
    unshare --net --mount bash -c \
      "mount -t tmpfs tmpfs /run && mkdir -p /run/avahi-daemon && echo > $dir/ready && exec sleep infinity" &
    b_pid=$!
    read -r _ < "$dir/ready"
    on_a() { DBUS_SYSTEM_BUS_ADDRESS=unix:path=$dir/a.bus "$@"; }
    on_b() {
      DBUS_SYSTEM_BUS_ADDRESS=unix:path=$dir/b.bus nsenter --target "$b_pid" --net --mount -- "$@"
    }
    on() { local host=$1; shift; "on_$host" "$@"; }
    bus() {
      if [ "$2" = start ]; then
        on "$1" dbus-daemon --system --fork --nopidfile --print-pid --address="unix:path=$dir/$1.bus" \
          > "$dir/$1.bus.pid"
      else
        # Milder signals may be blocked: the test's process hands its mask down.
        kill -9 "$(cat "$dir/$1.bus.pid")"; rm -f "$dir/$1.bus"
      fi
    }
    avahi() {
      case $2 in
        start)
          printf '[server]\nhost-name=%s\nallow-interfaces=eth0\n' "lab-$1" > "$dir/$1.conf"
          printf '[publish]\npublish-hinfo=no\npublish-workstation=no\n' >> "$dir/$1.conf"
          on "$1" avahi-daemon -D -f "$dir/$1.conf" --no-chroot --no-rlimits --no-drop-root ;;
        kill) on "$1" bash -c 'kill -9 $(cat /run/avahi-daemon/pid) && rm -f /run/avahi-daemon/pid' ;;
      esac
    }
    start() { bus "$1" start && avahi "$1" start; }
    # Tries until it succeeds, for at most two minutes.
    await() { for _ in {1..1200}; do "$@" && return 0; sleep 0.1; done; return 1; }
    browse_on_b() { on b avahi-browse -rpt _hearth-mesh._tcp; }
    lists() { browse_on_b | grep -q -- "$1"; }
    # Twice, since an answer that comes too late looks like none.
    lists_not() { ! lists "$1" && ! lists "$1"; }
    ended() { ! on "$1" avahi-daemon -c; }
    # Returns when the service stands.
    publish_on_b() {
      local line
      exec 9< <(on b avahi-publish -s "$@" 2>&1)
      read -r line <&9
      case $line in Established*) return 0 ;; *) echo "$line" >&2; return 1 ;; esac
    }
    ip link add eth0 type veth peer name eth0 netns "$b_pid"
    for host in a b; do
      on $host ip link set lo up
      # No address but those that the tests know.
      on $host ip link set eth0 addrgenmode none
      on $host ip link set eth0 up
      on $host ip addr add fe80::$host/64 dev eth0 nodad
    done
    ip addr add 10.78.0.1/24 brd + dev eth0
    on b ip addr add 10.78.0.2/24 brd + dev eth0
    echo ready
    while read -r line; do eval "$line"; echo "done $?"; done
    """#
}

extension AvahiDiscovery {
  /// The report after the first event that satisfies `condition`.
  func report(when condition: (AvahiReport) -> Bool) async -> AvahiReport? {
    for await event in events {
      if case .report(let report) = event, condition(report) { return report }
    }
    return nil
  }

  /// The first hint that satisfies `condition`.
  func hint(where condition: (DiscoveryHint) -> Bool) async -> DiscoveryHint? {
    for await event in events {
      if case .hint(let hint) = event, condition(hint) { return hint }
    }
    return nil
  }
}

extension AvahiReport {
  /// The name under which the service stands; nil while it does not.
  var establishedName: String? {
    if case .established(let name) = publication { name } else { nil }
  }
}
