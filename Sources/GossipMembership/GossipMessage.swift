package import MeshModel
package import WireCoding

/// Everything but a member's statements: enough to compare views.
package struct MemberClaim: Hashable, Sendable, WireCodable {
  /// Bytes of a claim.
  package static let byteCount = 33

  /// Whom it is about.
  package var device: DeviceID
  /// How recent it is.
  package var incarnation: Incarnation
  /// What is believed of it.
  package var state: MemberState
  /// The hash of its statements; 0 when the statements of that incarnation are not known here.
  package var capabilityHash: UInt64

  /// A claim.
  package init(device: DeviceID, incarnation: Incarnation, state: MemberState, capabilityHash: UInt64) {
    self.device = device
    self.incarnation = incarnation
    self.state = state
    self.capabilityHash = capabilityHash
  }

  /// Reads 33 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    device = try DeviceID(from: &reader)
    incarnation = try Incarnation(from: &reader)
    state = try MemberState.read(from: &reader)
    capabilityHash = try reader.integer("capability hash")
  }

  /// Writes 33 bytes.
  package func encode(to writer: inout ByteWriter) {
    device.encode(to: &writer)
    incarnation.encode(to: &writer)
    writer.integer(state.rawValue)
    writer.integer(capabilityHash)
  }
}

/// Somebody's word that a member does not answer: SWIM's Suspect, and its Confirm as "unreachable" (§4.2).
package struct Accusation: Hashable, Sendable, WireCodable {
  /// Whom it is about.
  package var device: DeviceID
  /// The member's incarnation that did not answer.
  package var incarnation: Incarnation
  /// Whether the time to refute is over: `unreachable`, else `suspect`.
  package var isFinal: Bool
  /// Who says so from an own failed probe (Lifeguard counts them).
  package var accuser: DeviceID

  /// An accusation.
  package init(device: DeviceID, incarnation: Incarnation, isFinal: Bool, accuser: DeviceID) {
    self.device = device
    self.incarnation = incarnation
    self.isFinal = isFinal
    self.accuser = accuser
  }

  /// The state that it claims.
  package var state: MemberState { isFinal ? .unreachable : .suspect }

  /// Reads 41 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    device = try DeviceID(from: &reader)
    incarnation = try Incarnation(from: &reader)
    isFinal = try reader.flag("accusation is final")
    accuser = try DeviceID(from: &reader)
  }

  /// Writes 41 bytes.
  package func encode(to writer: inout ByteWriter) {
    device.encode(to: &writer)
    incarnation.encode(to: &writer)
    writer.flag(isFinal)
    accuser.encode(to: &writer)
  }
}

/// One piece of what is passed on by gossip (SWIM §4.1).
///
/// On the wire: tag u8, length u8, content. Unknown tags are skipped, unless their uppermost bit is set.
package enum News: Hashable, Sendable {
  /// A device's own word: it is alive, or it leaves.
  case record(MemberRecord)
  /// Others' word about it.
  case accusation(Accusation)

  private static let recordTag: UInt8 = 1
  private static let accusationTag: UInt8 = 2
  private static let mustUnderstandBit: UInt8 = 0x80

  /// Whom it is about.
  package var device: DeviceID {
    switch self {
    case .record(let record): record.device
    case .accusation(let accusation): accusation.device
    }
  }

  /// How recent it is.
  package var incarnation: Incarnation {
    switch self {
    case .record(let record): record.incarnation
    case .accusation(let accusation): accusation.incarnation
    }
  }

  /// What it claims.
  package var state: MemberState {
    switch self {
    case .record(let record): record.state
    case .accusation(let accusation): accusation.state
    }
  }

  /// Reads one piece; nil when it is of a kind that may be skipped.
  static func read(from reader: inout ByteReader) throws(DecodingFailure) -> News? {
    let tag = try reader.integer("news tag", as: UInt8.self)
    let length = Int(try reader.integer("news length", as: UInt8.self))
    let content = try reader.bytes("news", count: length)
    switch tag {
    case recordTag:
      let record = try MemberRecord(decoding: content)
      guard record.state == .alive || record.state == .left else {
        throw .invalid(field: "state of a record in news", value: UInt64(record.state.rawValue))
      }
      return .record(record)
    case accusationTag: return .accusation(try Accusation(decoding: content))
    default:
      guard tag & mustUnderstandBit == 0 else { throw .mustUnderstand(tag: UInt16(tag)) }
      return nil
    }
  }

  /// The piece with its tag and length.
  var wireBytes: [UInt8] {
    let (tag, content) =
      switch self {
      case .record(let record): (Self.recordTag, record.encoded)
      case .accusation(let accusation): (Self.accusationTag, accusation.encoded)
      }
    return [tag, UInt8(content.count)] + content
  }
}

/// A part of a view: the claims about all members whose names lie above `above` and not above `through`.
///
/// A part says of members that it does not mention that they are unknown, so parts can be answered one by one.
package struct ViewPart: Hashable, Sendable {
  /// Claims in one part.
  package static let claimLimit = 34

  /// The part begins after this name.
  package var above: DeviceID
  /// The part ends with this name.
  package var through: DeviceID
  /// The members, in ascending order.
  package var claims: [MemberClaim]

  /// A part with these bounds and claims.
  package init(above: DeviceID, through: DeviceID, claims: [MemberClaim]) {
    self.above = above
    self.through = through
    self.claims = claims
  }

  /// The lowest and the highest name.
  static let bounds: (DeviceID, DeviceID) = {
    guard let lowest = DeviceID(bytes: [UInt8](repeating: 0, count: DeviceID.byteCount)),
      let highest = DeviceID(bytes: [UInt8](repeating: 0xFF, count: DeviceID.byteCount))
    else { preconditionFailure("\(DeviceID.byteCount) bytes name a device") }
    return (lowest, highest)
  }()

  /// The parts of a whole view.
  package static func parts(of claims: [MemberClaim]) -> [ViewPart] {
    var parts: [ViewPart] = []
    var above = bounds.0
    var start = 0
    repeat {
      let end = min(start + claimLimit, claims.count)
      let through = end < claims.count ? claims[end - 1].device : bounds.1
      parts.append(ViewPart(above: above, through: through, claims: Array(claims[start..<end])))
      above = through
      start = end
    } while start < claims.count
    return parts
  }
}

/// The messages of the membership protocol; none has more than `GossipLimits.messageBytes` bytes.
///
/// On the wire: kind u8, then the fields in their order, little-endian; counts are one byte.
package enum GossipMessage: Hashable, Sendable {
  /// Asks for an `ack` with the same number.
  case ping(sequence: UInt32, [News])
  /// Answers a ping, or tells who asked for an indirect probe that the target answered.
  case ack(sequence: UInt32, ViewDigest, [News])
  /// Asks the receiver to probe `target` (SWIM's ping-req, §3.1).
  case pingRequest(sequence: UInt32, target: DeviceID, [News])
  /// Tells who asked for an indirect probe that the target has not answered yet (Lifeguard §IV-A).
  case nack(sequence: UInt32)
  /// News alone.
  case news([News])
  /// The digest of the sender's view, to be answered with the receiver's view when that differs.
  case viewDigest(ViewDigest)
  /// A part of the sender's view, to be answered with what the sender lacks.
  case viewPart(ViewPart)
  /// Records that the receiver lacks, and the devices whose records the sender lacks.
  case records([MemberRecord], wanted: [DeviceID])

  /// Whether the message belongs to an exchange of views.
  var isOfExchange: Bool {
    switch self {
    case .viewDigest, .viewPart, .records: true
    default: false
    }
  }
}

extension GossipMessage: WireCodable {
  private enum Kind: UInt8 {
    case ping = 1
    case ack = 2
    case pingRequest = 3
    case nack = 4
    case news = 5
    case viewDigest = 6
    case viewPart = 7
    case records = 8
  }

  /// Reads a message.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    guard reader.remaining <= GossipLimits.messageBytes else {
      throw .overLimit(
        field: "message", value: UInt64(reader.remaining), limit: GossipLimits.messageBytes)
    }
    let kind = try reader.integer("message kind", as: UInt8.self)
    switch Kind(rawValue: kind) {
    case .ping: self = .ping(sequence: try reader.integer("sequence"), try Self.readNews(&reader))
    case .ack:
      self = .ack(
        sequence: try reader.integer("sequence"), try ViewDigest(from: &reader), try Self.readNews(&reader))
    case .pingRequest:
      self = .pingRequest(
        sequence: try reader.integer("sequence"), target: try DeviceID(from: &reader),
        try Self.readNews(&reader))
    case .nack: self = .nack(sequence: try reader.integer("sequence"))
    case .news: self = .news(try Self.readNews(&reader))
    case .viewDigest: self = .viewDigest(try ViewDigest(from: &reader))
    case .viewPart: self = .viewPart(try ViewPart(from: &reader))
    case .records: self = try Self.readRecords(&reader)
    case nil: throw .invalid(field: "message kind", value: UInt64(kind))
    }
  }

  /// Writes the message.
  package func encode(to writer: inout ByteWriter) {
    switch self {
    case .ping(let sequence, let news):
      writer.integer(Kind.ping.rawValue)
      writer.integer(sequence)
      Self.write(news, to: &writer)
    case .ack(let sequence, let digest, let news):
      writer.integer(Kind.ack.rawValue)
      writer.integer(sequence)
      digest.encode(to: &writer)
      Self.write(news, to: &writer)
    case .pingRequest(let sequence, let target, let news):
      writer.integer(Kind.pingRequest.rawValue)
      writer.integer(sequence)
      target.encode(to: &writer)
      Self.write(news, to: &writer)
    case .nack(let sequence):
      writer.integer(Kind.nack.rawValue)
      writer.integer(sequence)
    case .news(let news):
      writer.integer(Kind.news.rawValue)
      Self.write(news, to: &writer)
    case .viewDigest(let digest):
      writer.integer(Kind.viewDigest.rawValue)
      digest.encode(to: &writer)
    case .viewPart(let part):
      writer.integer(Kind.viewPart.rawValue)
      part.encode(to: &writer)
    case .records(let records, let wanted):
      writer.integer(Kind.records.rawValue)
      writer.integer(UInt8(records.count))
      for record in records { record.encode(to: &writer) }
      writer.integer(UInt8(wanted.count))
      for device in wanted { device.encode(to: &writer) }
    }
  }

  private static func write(_ news: [News], to writer: inout ByteWriter) {
    writer.integer(UInt8(news.count))
    for piece in news { writer.raw(piece.wireBytes) }
  }

  private static func readNews(_ reader: inout ByteReader) throws(DecodingFailure) -> [News] {
    let count = try readCount(&reader, "news count", limit: GossipLimits.newsPerMessage)
    var news: [News] = []
    for _ in 0..<count {
      if let piece = try News.read(from: &reader) { news.append(piece) }
    }
    return news
  }

  private static func readRecords(_ reader: inout ByteReader) throws(DecodingFailure) -> GossipMessage {
    let recordCount = try readCount(&reader, "record count", limit: GossipLimits.recordsPerMessage)
    var records: [MemberRecord] = []
    for _ in 0..<recordCount { records.append(try MemberRecord(from: &reader)) }
    let wantedCount = try readCount(&reader, "wanted count", limit: ViewPart.claimLimit)
    var wanted: [DeviceID] = []
    for _ in 0..<wantedCount { wanted.append(try DeviceID(from: &reader)) }
    return .records(records, wanted: wanted)
  }

  fileprivate static func readCount(
    _ reader: inout ByteReader, _ field: StaticString, limit: Int
  ) throws(DecodingFailure) -> Int {
    let count = try reader.integer(field, as: UInt8.self)
    guard count <= limit else { throw .overLimit(field: "\(field)", value: UInt64(count), limit: limit) }
    return Int(count)
  }
}

extension ViewPart: WireCodable {
  /// Reads a part; its claims must be in ascending order and within its bounds.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    above = try DeviceID(from: &reader)
    through = try DeviceID(from: &reader)
    let count = try GossipMessage.readCount(&reader, "claim count", limit: Self.claimLimit)
    var claims: [MemberClaim] = []
    var last = above
    for _ in 0..<count {
      let claim = try MemberClaim(from: &reader)
      guard last < claim.device, claim.device <= through else {
        throw .notAscending(field: "claims of a view")
      }
      last = claim.device
      claims.append(claim)
    }
    self.claims = claims
  }

  /// Writes bounds and claims.
  package func encode(to writer: inout ByteWriter) {
    above.encode(to: &writer)
    through.encode(to: &writer)
    writer.integer(UInt8(claims.count))
    for claim in claims { claim.encode(to: &writer) }
  }
}
