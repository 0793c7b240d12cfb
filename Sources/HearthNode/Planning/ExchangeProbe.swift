import ComputeRuntime
import CryptoPrimitives
import DistributedTraining
import Glibc
import SecureChannel

/// Measures what a mebibyte of packed sums costs the processor on its way round a ring, together with one that comes in.
///
/// The parts are those of a run: sums are packed, cut into frames, sealed, handed to the kernel, read from it, opened, put
/// together, unpacked and added. The event loop's own work is not among them.
struct ExchangeProbe {
  /// Sums of a message, as a ring has them.
  private static let elements = 1 << 15
  private static let rounds = 32
  /// Bytes of a frame; what is sealed as one record.
  private static let frameBytes = 60 << 10
  /// How much more a run takes than these parts: event loops, wake-ups, TCP.
  ///
  /// From one profile of eight daemons on a busy machine; a quiet one has not confirmed it.
  private static let overhead = 1.5

  let clock: WorkClock
  /// Bytes that a sum takes in a message.
  let sumBytes: Int

  /// Nanoseconds, the least of some rounds.
  func measure() throws -> Int64 {
    let socket = try SocketPair()
    // With the sign they take just those bytes; halves of sums below stay as large.
    let mask = 1 << (8 * sumBytes - 2) - 1
    var sums = (0..<Self.elements).map { Int64($0 &* 0x9E37_79B9 & mask) }
    let incoming = sums
    var sealer = RecordSealer(key: Self.key)
    var opener = RecordOpener(key: Self.key)
    var best = Double.infinity
    var bytes = 1
    for _ in 0..<Self.rounds {
      let start = clock.now
      let message = sums.withUnsafeBufferPointer { values in
        values.baseAddress.map { PackedIntegers.encode($0, count: values.count) } ?? []
      }
      bytes = message.count
      var arrived: [UInt8] = []
      arrived.reserveCapacity(message.count)
      for begin in stride(from: 0, to: message.count, by: Self.frameBytes) {
        let body = message[begin..<min(begin + Self.frameBytes, message.count)]
        var record = [UInt8](unsafeUninitializedCapacity: body.count + Self.tagBytes) { buffer, count in
          _ = buffer.update(fromContentsOf: body)
          count = body.count + Self.tagBytes
        }
        record.withUnsafeMutableBytes { sealer.seal($0) }
        try socket.pass(&record)
        let length = try record.withUnsafeMutableBytes { try opener.open($0) }
        arrived.append(contentsOf: record.prefix(length))
      }
      var unpacked = incoming
      unpacked.withUnsafeMutableBufferPointer { buffer in
        if let base = buffer.baseAddress { PackedIntegers.decode(arrived, into: base) }
      }
      for index in sums.indices { sums[index] = (sums[index] &+ unpacked[index]) >> 1 }
      best = min(best, clock.seconds(since: start, threads: 1))
    }
    return Int64(best * Self.overhead * 1e9 * Double(1 << 20) / Double(bytes))
  }

  private static let tagBytes = RecordLimits.recordByteCount - RecordLimits.messageByteCount

  /// The key of both halves, of no secrecy.
  private static var key: SecretBytes { SecretBytes(copying: Array(repeating: 7, count: 32)) }
}

/// Two connected sockets of this process.
private final class SocketPair {
  private var ends: [CInt] = [-1, -1]

  init() throws(JobPlanningFailure) {
    guard socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
      throw .settings(detail: "this device could not be measured: no pair of sockets (error \(errno))")
    }
    // A record must fit, because the same thread reads it; the kernel doubles what it is asked for.
    var room: CInt = 1 << 18
    for end in ends {
      setsockopt(end, SOL_SOCKET, SO_SNDBUF, &room, socklen_t(MemoryLayout<CInt>.size))
    }
  }

  deinit { for end in ends { close(end) } }

  /// Sends bytes to itself: over them comes what came.
  func pass(_ bytes: inout [UInt8]) throws(JobPlanningFailure) {
    let count = bytes.count
    let sent = bytes.withUnsafeBytes { write(ends[0], $0.baseAddress, count) }
    var received = 0
    while sent == count, received < count {
      let more = bytes.withUnsafeMutableBytes {
        read(ends[1], $0.baseAddress?.advanced(by: received), count - received)
      }
      guard more > 0 else { break }
      received += more
    }
    guard received == count else {
      throw .settings(
        detail: "this device could not be measured: a pair of sockets passed \(received) of \(count) bytes")
    }
  }
}
