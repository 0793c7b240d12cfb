import DistributedTraining
import MeshProtocol
import TrainingCoordination
import WireCoding

/// Which of the streams of a bulk session a frame belongs to: the frame's channel.
enum BulkStream: UInt16 {
  /// Messages of a plan epoch.
  case job = 1
  /// Blobs.
  case blob = 2
}

/// The bounds and times of the bulk data of jobs.
package enum JobLinkLimits {
  /// Longest message; a sender that has more cuts it.
  package static let message = 64 << 20
  /// Bytes of a message in one frame.
  package static let part = 60 << 10
  /// Bytes of messages from one device that wait for their reader before the sender has to wait.
  package static let waitingBytes = 128 << 20
  /// The same while a reader waits for another message that may lie behind them; beyond it the job fails.
  package static let mostWaitingBytes = 448 << 20
  /// Bytes that a message counts beside its own.
  package static let messageOverhead = 64
  /// Messages from one device that have begun and not ended.
  package static let unfinishedMessages = 256
  /// Bytes of frames of a plan epoch that this device has not begun, for one session; the rest stays in the socket.
  package static let earlyBytes = 2 << 20
  /// Sessions of such plan epochs.
  package static let earlySessions = 64
  /// Bytes of the reason of an abort.
  package static let reason = 512
  /// Bytes of a session's send queue that messages leave to words.
  package static let wordRoom = 64 << 10

  /// How long a connection to a device of the plan may take to stand.
  package static let openTime: Duration = .seconds(30)
  /// After so long the side that waits to be dialled dials too.
  package static let patience: Duration = .seconds(2)
  /// Between two dials of one side.
  package static let redialTime: Duration = .seconds(1)
}

/// One frame of a plan epoch: a part of a message, or a word about the link.
///
/// On the wire: stamp 28, kind u8, step u64, unit u32, part u32, bytes of the whole message u32, where this part begins
/// u32, the part. The frame's request is the message's number on its link.
struct JobRecord {
  /// What a frame is, when it is no part of a message; beside the values of `JobMessageKind`.
  enum Word: UInt8 {
    /// The first frame of who dialled: names the plan epoch.
    case hello = 0xF0
    /// The job was stopped; the part is the reason.
    case aborted = 0xF1
    /// A device of the plan is lost; the unit is its place.
    case lost = 0xF2
    /// Nothing follows.
    case finished = 0xF3
    /// The receiver has room for messages up to a sum since the link stands; the unit is that sum in mebibytes.
    case credit = 0xF4
  }

  /// What the frame is.
  enum Kind {
    case message(JobTag)
    case word(Word, unit: UInt32)
  }

  /// Bytes before the part.
  static let headerByteCount = 53

  let stamp: JobStamp
  let kind: Kind
  let length: Int
  let offset: Int
  /// The part, where the body lies, and valid no longer.
  let data: UnsafeRawBufferPointer

  /// Reads a frame's body.
  ///
  /// Throws for unknown kinds, lengths over their limits, and parts that do not lie in their message.
  init(_ body: UnsafeRawBufferPointer) throws(DecodingFailure) {
    let head = body.prefix(Self.headerByteCount)
    var reader = ByteReader(Array(head))
    stamp = try JobStamp(from: &reader)
    let value = try reader.integer("job record kind", as: UInt8.self)
    let step: UInt64 = try reader.integer("step")
    let unit: UInt32 = try reader.integer("unit")
    let part: UInt32 = try reader.integer("part")
    length = Int(try reader.integer("message length", as: UInt32.self))
    offset = Int(try reader.integer("part offset", as: UInt32.self))
    data = UnsafeRawBufferPointer(rebasing: body[head.count...])
    let limit: Int
    if let known = JobMessageKind(rawValue: value) {
      kind = .message(JobTag(known, step: step, unit: unit, part: part))
      limit = JobLinkLimits.message
    } else if let word = Word(rawValue: value) {
      kind = .word(word, unit: unit)
      limit = JobLinkLimits.reason
    } else {
      throw .invalid(field: "job record kind", value: UInt64(value))
    }
    guard length <= limit else { throw .invalid(field: "message length", value: UInt64(length)) }
    guard offset + data.count <= length, !data.isEmpty || length == 0 else {
      throw .invalid(field: "part offset", value: UInt64(offset))
    }
  }

  /// The frame of a part of a message.
  static func frame(
    _ stamp: JobStamp, _ tag: JobTag, number: UInt32, part range: Range<Int>, of message: [UInt8]
  ) -> MeshFrame {
    var writer = ByteWriter(reserving: headerByteCount)
    stamp.encode(to: &writer)
    writer.integer(tag.kind.rawValue)
    writer.integer(tag.step)
    writer.integer(tag.unit)
    writer.integer(tag.part)
    writer.integer(UInt32(message.count))
    writer.integer(UInt32(range.lowerBound))
    return MeshFrame(
      .bulk, channel: BulkStream.job.rawValue, request: number, body: writer.bytes, tail: message[range])
  }

  /// The frame of a word.
  static func frame(_ stamp: JobStamp, _ word: Word, unit: UInt32 = 0, text: String = "") -> MeshFrame {
    let bytes = Array(text.utf8.prefix(JobLinkLimits.reason))
    var writer = ByteWriter(reserving: headerByteCount + bytes.count)
    stamp.encode(to: &writer)
    writer.integer(word.rawValue)
    writer.integer(UInt64(0))
    writer.integer(unit)
    writer.integer(UInt32(0))
    writer.integer(UInt32(bytes.count))
    writer.integer(UInt32(0))
    writer.raw(bytes)
    return MeshFrame(.bulk, channel: BulkStream.job.rawValue, body: writer.bytes)
  }
}
