package import WireCoding

/// What a frame of a session is about; the raw values are the wire's.
package enum FrameKind: UInt8, Hashable, Sendable, CaseIterable {
  /// Says that the session ends, and why (`CloseReason`).
  case goodbye = 1
  /// SWIM messages that could not go as datagrams, or that go beside them.
  case gossip = 2
  /// A whole view of the membership (anti-entropy), and the answer to it.
  case viewExchange = 3
  /// Entries of the signed membership log.
  case trustLog = 4
  /// Asks for an echo of the body on the same session; measures the path.
  case echoRequest = 7
  /// The echo.
  case echoReply = 8
  /// Bulk data; the body's layout belongs to who opened the session.
  case bulk = 9
  /// A part of a burst, by which a link's rate is measured; the channel says whether it is the last.
  case burst = 10
  /// What the receiver of a burst answers to its last part.
  case burstReport = 11
  /// What the devices of a job say to each other beside its bulk data; the layout belongs to who runs jobs.
  case job = 12
}

/// One frame inside a session: what it is about, which exchange it belongs to, and its bytes.
///
/// On the wire: kind u8, flags u8 (0), channel u16, request u32, body to the end of the encrypted record.
package struct MeshFrame: Hashable, Sendable, WireCodable {
  /// Bytes before the body.
  package static let headerByteCount = 8

  /// What the frame is about.
  package var kind: FrameKind
  /// Which of several streams of one kind.
  package var channel: UInt16
  /// Which request it asks or answers; 0 when there is none.
  package var request: UInt32
  /// What is said; its limit, with the tail, is the session's record limit less the header.
  package var body: [UInt8]
  /// What follows the body on the wire: a part of a long message that is not copied to be sent.
  ///
  /// A frame that was read has none; all of it is in its body.
  package var tail: ArraySlice<UInt8>

  /// A frame.
  package init(
    _ kind: FrameKind, channel: UInt16 = 0, request: UInt32 = 0, body: [UInt8], tail: ArraySlice<UInt8> = []
  ) {
    self.kind = kind
    self.channel = channel
    self.request = request
    self.body = body
    self.tail = tail
  }

  /// Bytes of body and tail.
  package var contentByteCount: Int { body.count + tail.count }

  /// Reads header and body; a kind or flag that is not known is refused, and the receiver drops the frame.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let kind = try reader.integer("frame kind", as: UInt8.self)
    guard let known = FrameKind(rawValue: kind) else {
      throw .invalid(field: "frame kind", value: UInt64(kind))
    }
    let flags = try reader.integer("frame flags", as: UInt8.self)
    guard flags == 0 else { throw .invalid(field: "frame flags", value: UInt64(flags)) }
    self.kind = known
    channel = try reader.integer("frame channel")
    request = try reader.integer("frame request")
    body = Array(reader.rest())
    tail = []
  }

  /// Writes header and body.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(kind.rawValue)
    writer.integer(UInt8(0))
    writer.integer(channel)
    writer.integer(request)
    writer.raw(body)
    writer.raw(tail)
  }
}
