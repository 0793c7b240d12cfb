import ComputeRuntime
import Synchronization

/// Bytes between this device and another one.
package struct LinkTraffic: Sendable, Equatable, Codable {
  /// Bytes handed over for the other device.
  package var sent: UInt64
  /// Bytes taken from the other device.
  package var received: UInt64
  /// Nothing has gone either way.
  package init() { (sent, received) = (0, 0) }
}

/// For what the driver of a device waits.
enum WaitReason: Int, CaseIterable {
  case boundary, share, ring, taps, parameters, predictions
}

/// The job's channel with everything measured: bytes a link, and what the driving thread waited for.
///
/// A message longer than `pieceBytes` goes as several with one tag; one that is shorter ends it.
final class JobLinks: Sendable {
  /// Most bytes of one message of the channel.
  static let pieceBytes = 4 << 20
  /// Most bytes of a message that is put together again.
  static let messageLimit = 1 << 31

  let place: Int
  private let channel: any JobChannel
  private let traffic: Mutex<[LinkTraffic]>
  private let waited = Mutex([UInt64](repeating: 0, count: WaitReason.allCases.count))

  init(_ channel: any JobChannel, devices: Int) {
    self.channel = channel
    place = channel.place
    traffic = Mutex([LinkTraffic](repeating: LinkTraffic(), count: devices))
  }

  func abort(_ reason: String) { channel.abort(reason) }

  /// Sends one message, in pieces if it is long.
  func send(_ message: [UInt8], _ tag: JobTag, to place: Int) throws(DistributedRunFailure) {
    var start = 0
    repeat {
      let end = min(start + Self.pieceBytes, message.count)
      let piece = message.count < Self.pieceBytes ? message : Array(message[start..<end])
      try sendPiece(piece, tag, to: place)
      start += Self.pieceBytes
      // A last piece of full length would not end the message.
    } while start <= message.count
  }

  /// Sends a message that is shorter than a piece.
  func sendPiece(_ piece: [UInt8], _ tag: JobTag, to place: Int) throws(DistributedRunFailure) {
    do throws(JobChannelFailure) {
      try channel.send(piece, tag, to: place)
    } catch {
      throw .channel(error, during: "sending \(tag.kind) to device \(place)")
    }
    traffic.withLock { $0[place].sent += UInt64(piece.count) }
  }

  /// The next message with this tag; `reason` books the wait when the driver waits, nil on other threads.
  func receive(
    _ tag: JobTag, from place: Int, _ reason: WaitReason?
  ) throws(DistributedRunFailure) -> [UInt8] {
    try whole(receivePiece(tag, from: place, reason), tag, from: place, reason)
  }

  /// The next message with this tag, if it has begun to come; nil at once if not.
  func poll(_ tag: JobTag, from place: Int, _ reason: WaitReason?) throws(DistributedRunFailure) -> [UInt8]? {
    guard let first = try pollPiece(tag, from: place) else { return nil }
    return try whole(first, tag, from: place, reason)
  }

  /// The message that begins with a piece.
  private func whole(
    _ first: [UInt8], _ tag: JobTag, from place: Int, _ reason: WaitReason?
  ) throws(DistributedRunFailure) -> [UInt8] {
    guard first.count == Self.pieceBytes else { return first }
    var message = first
    while true {
      let piece = try receivePiece(tag, from: place, reason)
      guard message.count + piece.count <= Self.messageLimit else {
        throw .malformed(place: place, content: "\(tag.kind)", detail: "over \(Self.messageLimit) bytes")
      }
      message += piece
      if piece.count < Self.pieceBytes { return message }
    }
  }

  /// The next message of the channel with this tag.
  func receivePiece(
    _ tag: JobTag, from place: Int, _ reason: WaitReason?
  ) throws(DistributedRunFailure) -> [UInt8] {
    let start = MonotonicClock.nanoseconds()
    do throws(JobChannelFailure) {
      let piece = try channel.receive(tag, from: place)
      if let reason {
        let time = MonotonicClock.nanoseconds() - start
        waited.withLock { $0[reason.rawValue] += time }
      }
      traffic.withLock { $0[place].received += UInt64(piece.count) }
      return piece
    } catch {
      throw .channel(error, during: "waiting for \(tag.kind) of device \(place)")
    }
  }

  private func pollPiece(_ tag: JobTag, from place: Int) throws(DistributedRunFailure) -> [UInt8]? {
    do throws(JobChannelFailure) {
      guard let piece = try channel.poll(tag, from: place) else { return nil }
      traffic.withLock { $0[place].received += UInt64(piece.count) }
      return piece
    } catch {
      throw .channel(error, during: "looking for \(tag.kind) of device \(place)")
    }
  }

  /// Books the time since `start` as the driver's wait.
  func book(_ reason: WaitReason, since start: UInt64) {
    let time = MonotonicClock.nanoseconds() - start
    waited.withLock { $0[reason.rawValue] += time }
  }

  /// Bytes to and from every device of the plan so far.
  var bytes: [LinkTraffic] { traffic.withLock { $0 } }

  /// Nanoseconds that the driver has waited so far, by reason.
  var waits: [UInt64] { waited.withLock { $0 } }
}
